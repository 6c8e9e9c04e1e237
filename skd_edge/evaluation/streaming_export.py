"""Exports the per-frame file of a causal student, compares it with the network on every frame, and times it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from skd_bench.errors import UserError
from skd_bench.inference.frame_stream import FrameClassifier
from skd_bench.video.clip import normalise
from skd_bench.video.types import Preprocessing
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.models.streaming import StreamingNetwork
from skd_edge.models.tsm import TSM
from skd_export.bundle.writer import StreamModel, StreamParity
from skd_export.graph.streaming_export import export_stream
from skd_export.graph.uint8_input import Uint8Input, preprocess_frames

_COMPARED_CLIPS, _MAX_RELATIVE_ERROR = 200, 1e-4


@dataclass(frozen=True)
class ExportedStream:
    """A per-frame file that was compared with its network.

    Attributes:
        model: The file's entry in a bundle.
        milliseconds: Median time of a frame at batch 1, on this machine.
        frames: Number of frames that were compared and timed.
    """

    model: StreamModel
    milliseconds: float
    frames: int

    def to_text(self) -> str:
        """Latency, size of the state and accuracy of the file in one sentence, for the report."""
        return (
            f"Frame by frame (`predict --stream`): {self.milliseconds:.2f} ms per frame (median of {self.frames}, "
            f"on the machine that trained), {4 * self.model.state / 1000:.1f} kB of state; its logits differ from the "
            f"clip network's by at most {self.model.parity['relative']:.1e} of the largest logit on every frame."
        )


def write_stream(scorer: FileScorer, network: TSM, path: Path, clips: ClipSplit) -> ExportedStream:
    """Export a causal network as a file that takes one frame at a time, and compare the file on validation clips.

    Args:
        scorer: provides the clips in the form that the file takes.
        network: a trained causal network.
        path: the file to write.
        clips: the validation clips; the first 200 are compared.

    Raises:
        UserError: The network cannot be exported, or the logits of the file differ from those of the network.
    """
    export, clip = scorer.recipe.export, scorer.recipe.clip
    frames = Uint8Input(scorer.preprocess, export.frame_size) if export.contract == "frames" else None
    streaming_network = StreamingNetwork(network.cpu()).eval()
    export_stream(
        streaming_network,
        path,
        size=(clip.size, clip.size),
        state_size=streaming_network.state_size,
        classes=list(scorer.classes),
        uint8_input=frames,
    )
    pixels = np.concatenate(list(scorer.iter_first_clips(clips, _COMPARED_CLIPS)))
    stream_logits, times = _run_frame_by_frame(FrameClassifier(path), pixels, scorer.preprocess)
    with torch.no_grad():
        x = torch.from_numpy(preprocess_frames(pixels, scorer.preprocess))
        clip_logits = network.head(network(x).features[-1]).numpy()
    relative = float(np.abs(stream_logits - clip_logits).max() / (np.abs(clip_logits).max() or 1.0))
    if not relative <= _MAX_RELATIVE_ERROR:
        raise UserError(
            f"the logits of the per-frame file differ from the network's by {relative:.1e} of the largest logit, more "
            f"than {_MAX_RELATIVE_ERROR:.0e}; please report it, and set the student's `causal: false` to skip it"
        )
    agreement = float((stream_logits.argmax(2) == clip_logits.argmax(2)).mean())
    comparison: StreamParity = {
        "clips": len(pixels),
        "frames": stream_logits.shape[0] * stream_logits.shape[1],
        "relative": float(f"{relative:.2e}"),
        "agreement": agreement,
    }
    return ExportedStream(
        StreamModel(path, streaming_network.state_size, comparison), float(np.median(times)), len(times)
    )


def _run_frame_by_frame(
    stream: FrameClassifier, clips: NDArray[np.uint8], preprocess: Preprocessing
) -> tuple[NDArray[np.float32], list[float]]:
    """Run each clip as a stream of its own; returns the logits of every frame ``(N, T, C)`` and its milliseconds."""
    rows, times = [], []
    for clip in clips:
        stream.reset_state()
        frames = clip[:, np.newaxis]
        if stream.dtype != "uint8":
            frames = normalise(clip[np.newaxis], preprocess).transpose(2, 0, 1, 3, 4)
        frame_logits = []
        for frame in frames:
            frame = np.ascontiguousarray(frame)
            begin = time.perf_counter()
            frame_logits.append(stream.step(frame)[0])
            times.append(1000 * (time.perf_counter() - begin))
        rows.append(np.stack(frame_logits))
    return np.stack(rows), times
