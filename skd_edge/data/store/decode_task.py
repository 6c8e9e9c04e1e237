"""What a process of the crew does to build a store: a clip decoded, and written into its row of the file.

Every such process imports this module anew, so it imports little (recipes take longer to import than many clips to
decode).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skd_bench.video.clip import decode_clip
from skd_bench.video.types import ClipError, ClipSpan, Preprocessing, Sampling

DecoderName = Literal["pyav", "torchcodec"]


def count_row_bytes(sampling: Sampling, preprocess: Preprocessing) -> int:
    """Bytes of a clip ``(T, H, W, 3)`` uint8 in a store."""
    return sampling.frames * preprocess.height * preprocess.width * 3


def make_clip_decoder(
    store: Path, sampling: Sampling, preprocess: Preprocessing, decoder: DecoderName
) -> Callable[[int, Any], str | None]:
    """What decodes a clip into its row of the file ``store``, and says why where it cannot."""
    read = decode_clip
    if decoder == "torchcodec":
        from skd_edge.data.store.torchcodec import decode_with_torchcodec, require_torchcodec

        require_torchcodec()
        read = decode_with_torchcodec
    file = os.open(store, os.O_WRONLY)
    row = count_row_bytes(sampling, preprocess)
    with store.open("rb") as head:
        np.lib.format.read_magic(head)
        np.lib.format.read_array_header_1_0(head)
        first = head.tell()

    def decode_into_row(number: int, source: tuple[str, ClipSpan]) -> str | None:
        try:
            clip = read(source[0], sampling, preprocess, source[1])
        except ClipError as error:
            return error.reason
        # Written, not mapped: a full disk is then an error and no signal.
        if os.pwrite(file, clip.data, first + number * row) != row:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None

    return decode_into_row
