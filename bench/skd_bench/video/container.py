"""Opening a video file or a camera with PyAV (17 or newer); nothing but the given file is ever read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from skd_bench.files import open_regular_file

# Larger frames are refused: a damaged header may request gigabytes of memory (16K video has 132 million pixels).
MAX_PIXELS = 1 << 27
# From this PyAV version on, metadata that is not UTF-8 is always accepted, and the option for it no longer exists.
_METADATA_TOLERANT_SINCE = 19
# The demuxers of videos. Others are refused: those of playlists and lists of files (hls, dash, concat, image2, sdp)
# read more than the given file, and those of pictures, sound and text have no video.
_VIDEO_FORMATS = """
    4xm apng apv argo_brp asf asf_o av1 avi avs avs2 avs3 bethsoftvid bfi bink bmv c93 cavsvideo cdxl cine dfa dhav
    dirac dnxhd dsicin dv dxa ea evc film_cpk filmstrip flic flv gdv gif gxf h261 h263 h264 hevc hnm idcin iff ifv
    ingenient ipmovie ipu iv8 ivf ivr jpegxl_anim jv kux live_flv lmlm4 lvf lxf m4v matroska webm mgsts mjpeg mjpeg_2000
    mlv mm moflex mov mp4 mpeg mpegts mpegvideo mpjpeg msnwctcp mtv mv mvi mxf mxg nc nsv nut nuv obu ogg paf pmp psxstr
    pva r3d rl2 rm roq rpl ser sga siff smjpeg smk smush swf thp tiertexseq tmv ty usm vc1 vc1test vividas vivo vmd vvc
    wc3movie wsvqa wtv xmv yop yuv4mpegpipe
"""
_NOT_A_VIDEO = (
    "it contains no video: FFmpeg reads videos from no file of this format (playlists, lists of files, pictures and "
    "sound are not videos)"
)


def open_container(path: Path | str, *, offset: int = 0, size: int | None = None) -> Any:
    """Open a video file for reading. Metadata that is not UTF-8 (old cameras, other alphabets) is accepted.

    Args:
        path: The file.
        offset: Position of the video's first byte in the file.
        size: Length of the video in bytes; None for the whole file.

    Returns:
        PyAV's ``InputContainer``, which the caller closes.

    Raises:
        av.error.FFmpegError: FFmpeg cannot open the file, or it is in no format of videos.
        OSError: The file is missing or cannot be read.
    """
    import av
    from av.error import ArgumentError

    open_regular_file(path).close()  # a pipe would be waited for without end
    # With "file:", a colon in the name is not read as a protocol. The whitelist keeps playlists from opening URLs.
    name, protocols = f"file:{path}", "file"
    if size is not None:
        name, protocols = f"subfile,,start,{offset},end,{offset + size},,:{name}", "file,subfile"
    options = {
        "protocol_whitelist": protocols,
        "format_whitelist": ",".join(_VIDEO_FORMATS.split()),
        "max_pixels": str(MAX_PIXELS),
    }
    needs_option = _parse_major_version(av.__version__) < _METADATA_TOLERANT_SINCE
    tolerant: dict[str, Any] = {"metadata_errors": "ignore"} if needs_option else {}
    try:
        return av.open(name, options=options, **tolerant)
    except ArgumentError as error:  # so FFmpeg refuses a format that is not on the list
        raise ArgumentError(errno.EINVAL, _NOT_A_VIDEO, str(path)) from error


def open_camera(device: str) -> Any:
    """Open a Video4Linux camera, for example ``/dev/video0``; returns and raises like `open_container`."""
    import av

    return av.open(device, format="v4l2")


def _parse_major_version(version: str) -> int:
    return int(version.split(".")[0])
