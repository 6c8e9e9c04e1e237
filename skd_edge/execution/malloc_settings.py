"""Makes the C library reuse freed memory in the next training step instead of returning it to the system.

By default, glibc returns each freed block above a threshold to the kernel. Every training step then has to map and
clear the memory of its activations again.
"""

from __future__ import annotations

import ctypes
import sys

# malloc.h: M_MMAP_THRESHOLD (the largest that glibc allows), M_TRIM_THRESHOLD, M_ARENA_MAX (one arena, because the
# threads of autograd would each have their own)
_MALLOPT_OPTIONS = {-3: 32 << 20, -1: 2_000_000_000, -8: 1}


def keep_freed_memory() -> bool:
    """Configure the allocator of the C library; at most 2 GB of freed memory stay with the process.

    Returns:
        Whether the C library supports these options. glibc does; with others nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(option, value) == 1 for option, value in _MALLOPT_OPTIONS.items()])
