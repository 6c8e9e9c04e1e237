"""torchcodec as the decoder of a clip store, where it is installed: the frames that PyAV gives.

Which frames those are, timestamps decide, as always (``skd_bench/decoding.py``). torchcodec is asked for them by their
place, and must give those timestamps back. Where it cannot (another count of frames, no timestamps, damage that stops
it), and for a part of a file, PyAV decodes: it is also who says why a file cannot be read.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from skd_bench.errors import UserError
from skd_bench.video.clip import decode_clip
from skd_bench.video.types import WHOLE_FILE, ClipSpan, Pixels, Preprocessing, Sampling


def require_torchcodec() -> None:
    """Make sure that torchcodec can be imported.

    Raises:
        UserError: It is not installed, finds no FFmpeg, or was built for another torch.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except ImportError:
        raise UserError(
            "clip.decoder: torchcodec is not installed: pip install 'skd-edge[torchcodec]', or leave the key out (PyAV)"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            "clip.decoder: torchcodec cannot be loaded: it needs FFmpeg's shared libraries (4 to 8) and a build for "
            f"this torch ({' '.join(str(error).split())[:120]}...); install them, or leave the key out (PyAV)"
        ) from None


def decode_with_torchcodec(
    path: Path | str, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan = WHOLE_FILE
) -> Pixels:
    """Decode the sampled frames of a video; arguments, result and errors are those of ``clips.decode_clip``."""
    found = _try_decode(Path(path), sampling, preprocess) if span == WHOLE_FILE else None
    return decode_clip(path, sampling, preprocess, span) if found is None else found


def _try_decode(path: Path, sampling: Sampling, preprocess: Preprocessing) -> Pixels | None:
    """uint8 ``(T, H, W, 3)``; None where PyAV has to be asked."""
    from av.error import FFmpegError

    try:
        places, times, tick, aspect = _locate_sampled_frames(path, sampling)
        frames, turned = _read_frames_at(path, places, times, tick)
    except (FFmpegError, OSError, ValueError, RuntimeError):
        return None
    return _resize_frames(frames, places, sampling, preprocess, 1 / aspect if turned and aspect else aspect)


def _locate_sampled_frames(path: Path, sampling: Sampling) -> tuple[list[int], list[float], float, Fraction | None]:
    """Places of the chosen frames, their times and one tick in seconds, and the shape of a pixel; nothing is decoded.

    Raises:
        ValueError: The file is none for torchcodec.
    """
    from skd_bench.video.container import open_container
    from skd_bench.video.decoder import _choose_stamps, _find_video_stream, _scan_timeline

    with open_container(path) as container:
        stream = _find_video_stream(container)
        timeline = _scan_timeline(container, stream, WHOLE_FILE, seek_first=False)
        if not timeline.timed or not timeline.shown.any() or len(timeline.stamps) < timeline.announced:
            raise ValueError("without timestamps, empty or cut off")
        chosen, tick = _choose_stamps(timeline, sampling), float(stream.time_base or 0)
        places = np.searchsorted(np.sort(timeline.stamps[timeline.shown]), chosen)
        return places.tolist(), (chosen * tick).tolist(), tick, stream.sample_aspect_ratio


def _read_frames_at(path: Path, places: list[int], times: list[float], tick: float) -> tuple[Any, bool]:
    """The frames at these places ``(T, h, w, 3)`` uint8 upright, and whether width and height changed places for that.

    Raises:
        RuntimeError: torchcodec cannot decode the file.
        ValueError: It counts other frames.
    """
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    found = video.get_frames_at(places)
    if np.abs(found.pts_seconds.numpy() - times).max() > tick / 2:
        raise ValueError("torchcodec counts other frames")
    return found.data.numpy(), round(getattr(video.metadata, "rotation", None) or 0) % 180 == 90


def _resize_frames(
    frames: Any, places: list[int], sampling: Sampling, preprocess: Preprocessing, aspect: Fraction | None
) -> Pixels:
    from av import VideoFrame

    from skd_bench.video.resize import FrameResizer

    resizer = FrameResizer(sampling.frames, preprocess, aspect)
    image = None
    for i, pixels in enumerate(frames):
        if image is None or places[i] != places[i - 1]:  # the same frame again is copied
            image = VideoFrame.from_ndarray(pixels, "rgb24")
        resizer.write_frame(image)
    return resizer.out
