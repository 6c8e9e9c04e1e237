"""How long clips are in seconds, for windows over long videos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from skd_bench.video.container import open_container
from skd_bench.video.frame_folder import list_frames
from skd_bench.video.types import ClipSpan

_MOST_FILES = 100  # clips whose length is read, spread over all


def measure_clip_seconds(files: Sequence[Path], spans: Sequence[ClipSpan], frame_rate: float) -> float | None:
    """Median length of clips in seconds, from the headers of up to 100 of their files.

    Args:
        files: the video of each clip.
        spans: the part of its file that each clip is.
        frame_rate: pictures per second of clips that are folders of pictures.

    Returns:
        The length, rounded to a millisecond; None if no file states it.
    """
    rows = sorted({*np.linspace(0, len(files) - 1, min(_MOST_FILES, len(files))).astype(int).tolist()})
    lengths = [_read_seconds(files[i], spans[i], frame_rate) for i in rows]
    known = [length for length in lengths if length is not None and length > 0]
    return round(float(np.median(known)), 3) if known else None


def _read_seconds(file: Path, span: ClipSpan, frame_rate: float) -> float | None:
    if span.end is not None:
        return span.end - span.start
    import av
    from av.error import FFmpegError

    with suppress(OSError, ValueError, FFmpegError):
        if file.is_dir():
            return len(list_frames(file)) / frame_rate - span.start
        with open_container(file, offset=span.offset, size=span.size) as container:
            return None if container.duration is None else container.duration / av.time_base - span.start
    return None
