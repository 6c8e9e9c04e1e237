"""torchcodec as an optional decoder of the clip store; it yields the same frames as PyAV.

The frames are chosen by timestamp, as everywhere (``skd_bench.video.decoder``). They are requested from torchcodec by
index, and must have these timestamps. Otherwise (other frame count, doubtful timestamps, mirrored pictures, a damaged
file), and for a part of a file, PyAV decodes the clip; the reasons for unreadable files are therefore always those of
PyAV.
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
        UserError: It is not installed, does not find FFmpeg, or was built for another version of torch.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except ImportError:
        raise UserError(
            "clip.decoder: torchcodec is not installed; pip install 'skd-edge[torchcodec]', or remove the key: PyAV "
            "decodes then"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            "clip.decoder: torchcodec cannot be loaded; it needs FFmpeg's shared libraries (4 to 8) and a build for "
            f"this torch ({' '.join(str(error).split())[:120]}...): install them, or remove the key to decode with PyAV"
        ) from None


def decode_with_torchcodec(
    path: Path | str, sampling: Sampling, preprocess: Preprocessing, span: ClipSpan = WHOLE_FILE
) -> Pixels:
    """Decode the sampled frames of a video; arguments, result and errors are those of ``decode_clip``."""
    found = _try_decode(Path(path), sampling, preprocess) if span == WHOLE_FILE else None
    return decode_clip(path, sampling, preprocess, span) if found is None else found


def _try_decode(path: Path, sampling: Sampling, preprocess: Preprocessing) -> Pixels | None:
    """Decode with torchcodec: ``(T, H, W, 3)`` uint8, or None if PyAV must decode the file."""
    from av.error import FFmpegError

    from skd_bench.video.decoder import DoubtError

    try:
        stream, places, times, tick, aspect = _locate_sampled_frames(path, sampling)
        frames, turned = _read_frames_at(path, stream, places, times, tick)
    except (DoubtError, FFmpegError, OSError, ValueError, RuntimeError, StopIteration):
        return None
    return _resize_frames(frames, places, sampling, preprocess, 1 / aspect if turned and aspect else aspect)


def _locate_sampled_frames(
    path: Path, sampling: Sampling
) -> tuple[int, list[int], list[float], float, Fraction | None]:
    """Choose the frames from the packets' timestamps, without decoding.

    Returns:
        Index of the video stream among all streams of the file, indices of the frames in display order, their times in
        seconds, one tick of the stream in seconds, and the aspect ratio of a pixel.

    Raises:
        DoubtError: The file must be decoded straight, which torchcodec does not do.
        ValueError: Its pictures are mirrored.
        StopIteration: It has no pictures.
    """
    from skd_bench.video.container import open_container
    from skd_bench.video.decoder import lay_out, scan_packets
    from skd_bench.video.frame_choice import choose_positions
    from skd_bench.video.orientation import read_orientation
    from skd_bench.video.stream.clock import ClockRule
    from skd_bench.video.stream.pictures import DecodingCount, find_video_stream, iter_packets, iter_pictures

    with open_container(path) as container:
        stream = find_video_stream(container)
        table = scan_packets(container, stream, WHOLE_FILE, seeks=False)
        timetable = lay_out(table, ClockRule.of(container, stream), WHOLE_FILE)
        places, tick = choose_positions(timetable, sampling, WHOLE_FILE), float(stream.time_base or 0)
        times = ((timetable.times[places] + table.origin) * tick).tolist()
        aspect, index = stream.sample_aspect_ratio, stream.index
    with open_container(path) as container:
        stream = find_video_stream(container)
        pictures = iter_pictures(stream.codec_context, iter_packets(container, stream), DecodingCount())
        if read_orientation(next(pictures)).is_mirrored:
            raise ValueError("torchcodec turns frames, but does not mirror them")
    return index, places, times, tick, aspect


def _read_frames_at(path: Path, stream: int, places: list[int], times: list[float], tick: float) -> tuple[Any, bool]:
    """Decode the frames at some indices.

    Args:
        path: the video.
        stream: index of the stream; torchcodec's own choice may be another than the first.
        places: indices of the frames in display order.
        times: their expected times in seconds.
        tick: one tick of the stream in seconds; times may differ by half of it.

    Returns:
        Upright frames ``(T, h, w, 3)`` uint8, and whether rotating them upright swapped width and height.

    Raises:
        RuntimeError: torchcodec cannot decode the file.
        ValueError: torchcodec returns frames with other timestamps.
    """
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(
        str(path), stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
    )
    found = video.get_frames_at(places)
    if np.abs(found.pts_seconds.numpy() - times).max() > tick / 2:
        raise ValueError("torchcodec returns frames with other timestamps")
    return found.data.numpy(), round(getattr(video.metadata, "rotation", None) or 0) % 180 == 90


def _resize_frames(
    frames: Any, places: list[int], sampling: Sampling, preprocess: Preprocessing, aspect: Fraction | None
) -> Pixels:
    from av import VideoFrame

    from skd_bench.video.resize import FrameResizer

    resizer = FrameResizer(sampling.frames, preprocess, aspect)
    image = None
    for i, pixels in enumerate(frames):
        if image is None or places[i] != places[i - 1]:  # write_frame copies a repeated frame, it is not scaled again
            image = VideoFrame.from_ndarray(pixels, "rgb24")
        resizer.write_frame(image)
    return resizer.out
