"""The C library's memory: blocks that are freed stay with the process."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library
_KEPT = 2**30  # bytes; larger blocks still go back to the system one by one
_GROWTH = 2**26  # bytes asked of the system at once


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 1 GiB for the next use, for the rest of the process.

    By default glibc hands large freed blocks back to the system, and every activation of a batch
    is then mapped, zeroed and faulted in anew: up to four tenths of a small network's forward pass
    on a CPU, depending on the batch size (`benchmarks/NOTES.md`). The results do not depend on it.

    Returns:
        Whether it took effect: not with another C library than glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, _KEPT), (_TOP_PAD, _GROWTH))
    return all(mallopt(name, value) == 1 for name, value in settings)
