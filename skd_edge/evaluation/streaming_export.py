"""The per-frame twin of a causal student: written, compared with the network on every frame, and timed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.inference.frame_stream import Stream
from skd_bench.video.clip import normalise
from skd_edge.evaluation.evaluator import Scale
from skd_edge.models.streaming import Streaming
from skd_edge.models.tsm import TSM
from skd_export.bundle.writer import StreamModel
from skd_export.exporter import Frames
from skd_export.graph.streaming_export import export_stream
from skd_export.graph.uint8_input import fitted

_CLIPS, _BOUND = 200, 1e-4


@dataclass(frozen=True)
class Streamed:
    """A per-frame file.

    Attributes:
        model: For the bundle.
        milliseconds: Median of a frame, batch 1, on the machine that wrote it.
        frames: Frames that were compared.
    """

    model: StreamModel
    milliseconds: float
    frames: int

    def to_text(self) -> str:
        """What it costs, in a sentence."""
        return (
            f"Frame by frame (`predict --stream`): {self.milliseconds:.2f} ms a frame (median of {self.frames}, on the "
            f"machine that trained), {4 * self.model.state / 1000:.1f} kB of state; logits within "
            f"{self.model.parity['relative']:.1e} of the clip network's on every frame."
        )


def write_stream(scale: Scale, network: TSM, path: Path) -> Streamed:
    """Export a causal network frame by frame, and run the file on validation clips, frame after frame.

    Raises:
        UserError: It cannot be exported, or its logits are not those of the clip network.
    """
    export, clip = scale.recipe.export, scale.recipe.clip
    frames = Frames(scale.preprocess, export.frame_size) if export.contract == "frames" else None
    step = Streaming(network.cpu()).eval()
    export_stream(step, path, size=(clip.size, clip.size), state_size=step.state_size, classes=list(scale.classes),
                  frames=frames)  # fmt: skip
    clips = np.concatenate(list(scale.first(_CLIPS)))
    said, times = _stepped(Stream(path), clips, scale)
    with torch.no_grad():
        x = torch.from_numpy(fitted(clips, scale.preprocess))
        truth = network.head(network(x).features[-1]).numpy()
    relative = float(np.abs(said - truth).max() / (np.abs(truth).max() or 1.0))
    if not relative <= _BOUND:
        raise UserError(
            f"the per-frame file's logits are off by {relative:.1e} of the largest, above {_BOUND:.0e}: it is left out"
        )
    agreement = float((said.argmax(2) == truth.argmax(2)).mean())
    found = {"clips": len(clips), "frames": said.shape[0] * said.shape[1], "relative": float(f"{relative:.2e}"),
             "agreement": agreement}  # fmt: skip
    return Streamed(StreamModel(path, step.state_size, found), float(np.median(times)), len(times))


def _stepped(stream: Stream, clips: NDArray[np.uint8], scale: Scale) -> tuple[NDArray[np.float32], list[float]]:
    """Logits ``(N, T, C)`` of every frame, each clip a stream of its own from its first frame; and milliseconds."""
    rows, times = [], []
    for clip in clips:
        stream.reset()
        given = clip[:, np.newaxis]
        if stream.dtype != "uint8":
            given = normalise(clip[np.newaxis], scale.preprocess).transpose(2, 0, 1, 3, 4)
        answers = []
        for frame in given:
            frame = np.ascontiguousarray(frame)
            begin = time.perf_counter()
            answers.append(stream.step(frame)[0])
            times.append(1000 * (time.perf_counter() - begin))
        rows.append(np.stack(answers))
    return np.stack(rows), times
