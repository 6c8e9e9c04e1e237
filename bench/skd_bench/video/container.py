"""Opening a video file, alike on every PyAV from 17 on, and never more than that file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Larger pictures are refused: a few bytes of a broken header may ask for gigabytes (16K video has 132 million pixels).
MAX_PIXELS = 1 << 27
# From this PyAV on, metadata that is not UTF-8 is always read, and the option that asked for it is gone.
_TOLERANT_SINCE = 19


def open_container(path: Path | str, *, offset: int = 0, size: int | None = None) -> Any:
    """Open a video file for reading; metadata that is not UTF-8 (old cameras, other alphabets) does no harm.

    Args:
        path: the file.
        offset: where the video begins within the file, in bytes.
        size: how many bytes of the file are the video; None for the whole file.

    Returns:
        PyAV's ``InputContainer``, which the caller closes.

    Raises:
        av.error.FFmpegError: FFmpeg cannot open it.
        OSError: It is missing or cannot be read.
    """
    import av

    # "file:" keeps a colon in the name from being read as a protocol; the whitelist keeps playlists off the network.
    name, protocols = f"file:{path}", "file"
    if size is not None:
        name, protocols = f"subfile,,start,{offset},end,{offset + size},,:{name}", "file,subfile"
    options = {"protocol_whitelist": protocols, "max_pixels": str(MAX_PIXELS)}
    tolerant: dict[str, Any] = (
        {} if _parse_major_version(av.__version__) >= _TOLERANT_SINCE else {"metadata_errors": "ignore"}
    )
    return av.open(name, options=options, **tolerant)


def open_camera(device: str) -> Any:
    """Open a camera of Video4Linux, ``/dev/video0`` say; returns and raises as `open_container`."""
    import av

    return av.open(device, format="v4l2")


def _parse_major_version(version: str) -> int:
    return int(version.split(".")[0])
