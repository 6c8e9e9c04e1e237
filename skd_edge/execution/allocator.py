"""Keep freed memory: the pages of one training step serve the next, instead of going back to the system.

glibc returns every block above a threshold to the kernel as soon as it is freed, so that each step of a network maps
and clears its activations anew.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h: M_MMAP_THRESHOLD (glibc's greatest), M_TRIM_THRESHOLD, M_ARENA_MAX (autograd has threads of its own)
_MALLOPT_OPTIONS = {-3: 32 << 20, -1: 2_000_000_000, -8: 1}


def keep_freed_memory() -> bool:
    """Tell the C library's allocator; at most 2 GB of freed memory stay with the process.

    Returns:
        Whether this C library knows these options (glibc does; elsewhere nothing changes).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(option, value) == 1 for option, value in _MALLOPT_OPTIONS.items()])
