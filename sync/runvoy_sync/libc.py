"""What the C library has and the standard library does not."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 64 * 1024 * 1024
_LARGEST_BYTES = 32 * 1024 * 1024  # glibc takes no more; it is a log's largest chunk, too


@functools.cache
def syncfs() -> Callable[[int], None] | None:
    """Linux's, for a descriptor's file system; None where there is none, or it does not tell of failed writes (before 5.8)."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if sys.platform != "linux" or release is None or (int(release[1]), int(release[2])) < (5, 8):
        return None
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        return None

    def call(descriptor: int) -> None:
        if function(ctypes.c_int(descriptor)) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return call


def keep_freed() -> None:
    """Have glibc keep what is freed for what comes next, up to what the largest log took.

    By default a few MiB go back to the system after each log, and are zeroed and mapped anew for the next: a tenth of the time
    that a log of 1 MiB takes.
    """
    if sys.platform != "linux":
        return
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not with musl
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
