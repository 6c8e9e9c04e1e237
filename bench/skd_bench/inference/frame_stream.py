"""Classification of a long video or a camera frame by frame, with a network that carries a state between frames."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.bundle.manifest import Manifest, resolve_bundle_path
from skd_bench.bundle.onnx_file import find_onnx_problem
from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.metrics.accuracy import softmax
from skd_bench.runtimes.base import first_error_line
from skd_bench.runtimes.query_limit import QueryLimit
from skd_bench.untrusted.text import escape_name
from skd_bench.video.clip import prepare_input
from skd_bench.video.container import open_camera, open_container
from skd_bench.video.types import ClipError, Pixels, Preprocessing

_CAMERA_PREFIX = "/dev/video"


@dataclass(frozen=True)
class FramePrediction:
    """The prediction after one frame of a stream.

    Attributes:
        seconds: Time of the frame, in seconds since the start of the stream.
        frame: Number of the frame among the classified frames, from 0.
        label: The most likely class, from the mean logits of the last frames.
        probability: Probability of this class, 0..1.
        milliseconds: Time of the network for this frame.
    """

    seconds: float
    frame: int
    label: str
    probability: float
    milliseconds: float


class FrameClassifier:
    """A per-frame network on ONNX Runtime's CPU provider; it stores the state between frames.

    Args:
        path: The per-frame network, an ONNX file.
        threads: Number of threads for one frame.

    Attributes:
        dtype: Of the input ``frame``: "uint8" (B, H, W, 3) or "float32" (B, 3, H, W), normalised.
        state_size: Number of float32 values in the state of one stream.
        state: (B, state_size), the current state of B streams.

    Raises:
        UserError: The file is missing or is not a per-frame network, or onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, *, threads: int = 1) -> None:
        from skd_bench.runtimes import find_runtime

        find_runtime("ort").import_libraries()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises its own unrelated exception types
            raise UserError(f"ONNX Runtime cannot load {path}: {first_error_line(error)}") from error
        try:
            inputs = {tensor.name: tensor for tensor in self._session.get_inputs()}
        except UnicodeError:
            raise UserError(f"the inputs of {path} have names that are not UTF-8; copy the file again") from None
        if set(inputs) != {"frame", "state"}:
            raise UserError(f"{path} has the inputs {', '.join(inputs)}, but a per-frame network has frame and state")
        self.dtype = "uint8" if inputs["frame"].type == "tensor(uint8)" else "float32"
        state_shape = inputs["state"].shape
        if len(state_shape) != 2 or not isinstance(state_shape[1], int):
            raise UserError(f"the state of {path} is {state_shape}, but must be (streams, a fixed number of values)")
        self._path, self.state_size = path, int(state_shape[1])
        self._limit = QueryLimit()
        self.reset_state()

    def reset_state(self, streams: int = 1) -> None:
        """Start a number of new streams: all states become zeros."""
        self.state = np.zeros((streams, self.state_size), np.float32)

    def step(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Process the next frame of each stream and update the state.

        Args:
            frame: One frame for each of the B streams, with the shape and dtype of `dtype`.

        Returns:
            Logits ``(B, C)`` of these frames.

        Raises:
            UserError: The network fails, or takes too long.
        """
        limit = self._limit
        limit.begin()
        try:
            feeds = {"frame": frame, "state": self.state}
            logits, self.state = self._session.run(["logits", "next_state"], feeds, limit.options)
        except Exception as error:
            raise UserError(f"ONNX Runtime failed on {self._path}: {limit.explain(first_error_line(error))}") from error
        finally:
            limit.end()
        return np.asarray(logits, np.float32)


def classify_stream(
    bundle: Path | str, source: Path | str, *, every: int | None = None, smooth: int | None = None, threads: int = 1
) -> Iterator[FramePrediction]:
    """Classify a video from its first to its last frame, or a camera until the caller stops.

    Args:
        bundle: A bundle with a per-frame file (its student is causal).
        source: A video file, or a camera such as ``/dev/video0`` (Linux).
        every: Classify only every ``every``-th frame; None: as in training (the stride of dense sampling, else 1).
        smooth: Number of frames whose logits are averaged; None: the number of frames of a training clip.
        threads: Number of threads for one frame.

    Yields:
        A prediction after each classified frame.

    Raises:
        UserError: The bundle has no per-frame file or the file was changed, or the source cannot be read.
    """
    manifest = Manifest.load(bundle)
    if manifest.stream is None:
        raise UserError(f"{bundle} has no per-frame file; train a student with `causal: true`, or leave out --stream")
    path = resolve_bundle_path(bundle, manifest.stream.file)
    if not path.is_file() or sha256_file(path) != manifest.stream.sha256:
        raise UserError(f"{path} is missing or differs from the sha256 in the manifest; copy the bundle again")
    if problem := find_onnx_problem(path):
        raise UserError(f"{path} {problem}")
    stream = FrameClassifier(path, threads=threads)
    sampling = manifest.sampling
    step = every or (sampling.stride if sampling.kind == "dense" else 1)
    last: deque[npt.NDArray[np.float32]] = deque(maxlen=smooth or sampling.frames)
    for number, (seconds, pixels) in enumerate(iter_frames(source, manifest.preprocess, step)):
        network_input: npt.NDArray[Any] = pixels[np.newaxis]
        if stream.dtype != "uint8":
            network_input = prepare_input(network_input[np.newaxis], manifest.preprocess, stream.dtype)[:, :, 0]
        begin = time.perf_counter()
        last.append(stream.step(network_input))
        milliseconds = 1000 * (time.perf_counter() - begin)
        shares = softmax(np.mean(last, axis=0))[0]
        best = int(shares.argmax())
        yield FramePrediction(
            round(seconds, 3), number, manifest.classes[best], float(shares[best]), round(milliseconds, 3)
        )


def iter_stream_lines(
    bundle: Path | str, sources: Iterable[Path | str], as_json: bool, **stream_options: Any
) -> Iterator[str]:
    """Format the predictions of `classify_stream` as lines of text.

    Args:
        bundle: A bundle with a per-frame file.
        sources: Videos or cameras, one after the other.
        as_json: A JSON object for each frame; else a line when the class changes, and a summary at the end.
        **stream_options: The other arguments of `classify_stream`.

    Raises:
        UserError: See `classify_stream`.
    """
    for source in sources:
        name = escape_name(source)
        current_label, times = "", list[float]()
        for prediction in classify_stream(bundle, source, **stream_options):
            times.append(prediction.milliseconds)
            if as_json:
                yield json.dumps({"video": str(source), **asdict(prediction)})
            elif prediction.label != current_label:
                label = escape_name(prediction.label)
                yield f"{name}: {prediction.seconds:8.2f} s  {label} {prediction.probability:.1%}"
            current_label = prediction.label
        if not as_json:
            yield f"{name}: {len(times)} frames, {np.median(times):.2f} ms a frame (network alone, median)"


def iter_frames(source: Path | str, preprocess: Preprocessing, every: int) -> Iterator[tuple[float, Pixels]]:
    """Yield the time in seconds and the pixels of every ``every``-th frame; two frames are in memory at a time.

    The time is the one that `decode_clip` uses (``skd_bench.video.straight_decode``).

    Args:
        source: A video file, or a camera such as ``/dev/video0`` (Linux).
        preprocess: The size (H, W) and how frames are fitted to it.
        every: 1 for all frames.

    Yields:
        Seconds since the first frame, and uint8 RGB ``(H, W, 3)``, upright and resized.

    Raises:
        ClipError: The source does not exist or is not a video, or no frame can be decoded.
    """
    from av.error import FFmpegError

    from skd_bench.video.resize import FrameResizer
    from skd_bench.video.stream.pictures import TimedPictures

    shown = 0
    try:
        with _open_source(source) as container:
            pictures = TimedPictures(container, live=_is_camera(source))
            resizer = FrameResizer(1, preprocess, pictures.stream.sample_aspect_ratio)
            for ticks, frame in pictures:
                if shown % every == 0:
                    resizer.rewind()
                    resizer.write_frame(frame)
                    yield ticks * pictures.rule.tick, resizer.out[0].copy()
                shown += 1
    except (FFmpegError, OSError, ValueError) as error:
        raise ClipError(source, str(getattr(error, "strerror", None) or error)) from error
    if not shown:
        raise ClipError(source, "no frame can be decoded")


def _is_camera(source: Path | str) -> bool:
    return str(source).startswith(_CAMERA_PREFIX)


def _open_source(source: Path | str) -> Any:
    return open_camera(str(source)) if _is_camera(source) else open_container(source)
