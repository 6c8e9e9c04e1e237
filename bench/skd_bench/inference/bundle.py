"""A bundle as an object: open it, check its files, classify videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.inference.predict import Prediction, VideoError, predict


@dataclass(frozen=True)
class VideoPrediction:
    """What a bundle predicts for one video.

    Attributes:
        video: Path of the video, as it was given.
        top: (class, probability) of the most likely classes, most likely first; empty if the video cannot be read.
        milliseconds: Time of each step (``decode``, ``preprocess``, ``infer``); empty if the video cannot be read.
        answer: The predicted class. If the bundle has a reject threshold and the clip is below it, the background
            class, or None if there is none. None if the video cannot be read.
        error: Why the video cannot be read, one sentence; None if it can.
        confidence: Calibrated probability that the most likely class is right, for clips like the validation clips;
            None if the file has no temperature or the video cannot be read.
    """

    video: str
    top: tuple[tuple[str, float], ...]
    milliseconds: dict[str, float]
    answer: str | None
    error: str | None
    confidence: float | None = None


class Bundle:
    """The ``bundle`` folder of a run, to classify videos with; needs numpy, PyAV and one runtime, never torch.

    Example::

        bundle = Bundle("runs/quickstart/bundle")
        for prediction in bundle.predict(["a.mp4", "b.mp4"], top=3):
            print(prediction.video, prediction.error or prediction.top)

    Args:
        folder: The bundle's folder.

    Attributes:
        folder: As given.
        manifest: All that a device needs to run the bundle, and the origin of the bundle.

    Raises:
        UserError: The folder is not a bundle, or its manifest is malformed or was written by a newer version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)

    def __repr__(self) -> str:
        return f"Bundle({str(self.folder)!r})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return tuple(self.manifest.classes)

    def predict(self, videos: Iterable[Path | str], top: int = 5) -> list[VideoPrediction]:
        """Classify videos with the bundle's default file; its hash is checked first.

        The network is loaded once for each call, so classify many videos with one call.

        Args:
            videos: Files that FFmpeg can read, or folders of pictures.
            top: Number of classes to list for each video; at least 1.

        Returns:
            One prediction for each video, in order. A video that cannot be read has an ``error``; the others are
            still classified.

        Raises:
            UserError: The file was changed, or its runtime cannot be used. No video is classified then.
        """
        return [_make_video_prediction(entry) for entry in predict(self.folder, videos, top=top)]

    def verify(self) -> list[str]:
        """Compare every file with its hash in the manifest; nothing is loaded or run.

        Returns:
            One sentence for each problem; an empty list means that the bundle is unchanged.

        Raises:
            UserError: The manifest cannot be read.
        """
        return find_bundle_problems(self.folder)


def _make_video_prediction(entry: Prediction | VideoError) -> VideoPrediction:
    if "error" in entry:
        return VideoPrediction(entry["video"], (), {}, None, entry["error"])
    answer = entry["answer"] if "answer" in entry else entry["top"][0][0]
    return VideoPrediction(
        entry["video"], tuple(entry["top"]), entry["milliseconds"], answer, None, entry.get("confidence")
    )
