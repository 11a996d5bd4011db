"""Memory of training on the processor: kept from step to step instead of given back and asked for again."""

import ctypes
import platform
import sys

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 2**30  # bytes; larger ones are still mapped one by one
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free, for the next step, which needs the same again.

    By default glibc maps each large tensor anew and unmaps it when it is freed, and the kernel clears the same pages in
    every step: up to a third of a small network's time. The process needs no more memory at its peak, but stays there.

    Returns:
        Whether the C library can be told so: glibc on Linux.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
