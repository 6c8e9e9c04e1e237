"""The task of a worker process that builds a store: decode a clip and write it into its row of the file.

Every worker process imports this module, so it imports little: importing recipes takes longer than decoding many clips.
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
    """Size of a stored clip ``(T, H, W, 3)`` uint8 in bytes."""
    return sampling.frames * preprocess.height * preprocess.width * 3


def make_clip_decoder(
    store: Path, sampling: Sampling, preprocess: Preprocessing, decoder: DecoderName
) -> Callable[[int, Any], str | None]:
    """Make the task function of a ``WorkerPool``, which decodes clips into the file of a store.

    Args:
        store: an existing ``.npy`` file of shape ``(N, T, H, W, 3)`` uint8.
        sampling: which frames of a clip are decoded.
        preprocess: size in pixels, and how frames are fitted to it.
        decoder: the library that decodes.

    Returns:
        A function of a row number and ``(path, span)``. It writes the clip into the row and returns None, or returns
        the reason why the clip is unreadable. It raises OSError if the disk is full.

    Raises:
        UserError: The decoder is not installed.
    """
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
        # With a memory map, a full disk would end the process with a signal (SIGBUS); pwrite raises an error.
        if os.pwrite(file, clip.data, first + number * row) != row:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return None

    return decode_into_row
