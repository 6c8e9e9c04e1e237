"""Opening a video file or a camera with PyAV (17 or newer); nothing but the given file is ever read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from skd_bench.files import open_regular_file

# Larger frames are refused: a damaged header may request gigabytes of memory (16K video has 132 million pixels).
MAX_PIXELS = 1 << 27
# From this PyAV version on, metadata that is not UTF-8 is always accepted, and the option for it no longer exists.
_METADATA_TOLERANT_SINCE = 19


def open_container(path: Path | str, *, offset: int = 0, size: int | None = None) -> Any:
    """Open a video file for reading. Metadata that is not UTF-8 (old cameras, other alphabets) is accepted.

    Args:
        path: The file.
        offset: Position of the video's first byte in the file.
        size: Length of the video in bytes; None for the whole file.

    Returns:
        PyAV's ``InputContainer``, which the caller closes.

    Raises:
        av.error.FFmpegError: FFmpeg cannot open the file.
        OSError: The file is missing or cannot be read.
    """
    import av

    open_regular_file(path).close()  # a pipe would be waited for without end
    # With "file:", a colon in the name is not read as a protocol. The whitelist keeps playlists from opening URLs.
    name, protocols = f"file:{path}", "file"
    if size is not None:
        name, protocols = f"subfile,,start,{offset},end,{offset + size},,:{name}", "file,subfile"
    options = {"protocol_whitelist": protocols, "max_pixels": str(MAX_PIXELS)}
    needs_option = _parse_major_version(av.__version__) < _METADATA_TOLERANT_SINCE
    tolerant: dict[str, Any] = {"metadata_errors": "ignore"} if needs_option else {}
    return av.open(name, options=options, **tolerant)


def open_camera(device: str) -> Any:
    """Open a Video4Linux camera, for example ``/dev/video0``; returns and raises like `open_container`."""
    import av

    return av.open(device, format="v4l2")


def _parse_major_version(version: str) -> int:
    return int(version.split(".")[0])
