"""Memory that is freed and wanted again a moment later, as in every gradient update, is kept instead of given back.

PyTorch has a caching allocator for GPUs, and none for CPUs: there it asks the C library, and glibc gives large pieces
back to the system as soon as they are free. The next update gets them anew, page by page, each zeroed by the kernel:
5,800 page faults an update of a policy on two 64 x 64 pictures (batch 64), which were 14 to 30 % of its time in a
virtual machine. What is kept lies in huge pages where Linux gives them to those who ask: addresses are found faster.
"""

from __future__ import annotations

import ctypes
import platform
from typing import Final

#: glibc's <malloc.h>.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_MMAP_MAX: Final = -4
#: glibc's default of the latter: pieces that may be mapped apart.
_MAPPED_PIECES: Final = 65_536
#: Linux's <sys/mman.h>.
_MADV_HUGEPAGE: Final = 14
#: A huge page of x86-64, and of ARM with pages of 4 KiB.
_HUGE_PAGE: Final = 2 << 20
#: Free bytes at the end of the heap above which glibc gives them back; its default is 128 KiB, growing to 64 MiB.
KEPT: Final = 1 << 30
#: Bytes from which a piece is mapped apart, and so given back when it is freed: glibc's largest.
MAPPED_APART: Final = 32 << 20
#: Bytes of the heap, from where it ends when this is asked for, that may lie in huge pages.
HUGE: Final = 512 << 20


def keep_freed_memory() -> bool:
    """Have this process keep up to 1 GiB of memory that it has freed, in huge pages if it can; returns whether it will.

    It will not where the C library is another than glibc, and nothing is changed there.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = bool(libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_APART)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, KEPT))
    if kept:
        _ask_for_huge_pages(libc)
    return kept


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Let the next ``HUGE`` bytes of the heap lie in huge pages. They take no memory before they are used.

    A piece of that size is taken from the heap, marked, and freed: to the C library, which keeps it, not to the system.
    """
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_M_MMAP_MAX, 0)  # or a piece so large would be mapped apart
    try:
        piece = libc.malloc(HUGE)
        if piece:
            first = -(-piece // _HUGE_PAGE) * _HUGE_PAGE
            libc.madvise(first, HUGE - _HUGE_PAGE, _MADV_HUGEPAGE)  # where Linux has none, it says so: no harm
            libc.free(piece)
    finally:
        libc.mallopt(_M_MMAP_MAX, _MAPPED_PIECES)
