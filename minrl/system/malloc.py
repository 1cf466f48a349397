"""Settings of the process that make work on a CPU faster, for programs that own their process."""

import ctypes

# What glibc's malloc.h calls them, and the largest value that its `mallopt` takes.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def tune_cpu() -> bool:
    """Have the C library keep freed memory for the next tensor instead of giving it back to the system.

    glibc asks the system anew for every tensor of more than 32 MiB, and each of its pages is a fault at first use:
    that costs several times what a scan takes to fill it. Kept memory counts as the process's until it ends, so this
    is for training and benchmarks, not for a guest in somebody else's process. It holds from the call on, for the
    whole process. `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647` in the environment does the same, and an
    allocator such as jemalloc needs neither.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    try:
        c_library = ctypes.CDLL(None)
        c_library.gnu_get_libc_version  # noqa: B018, other libraries have a mallopt that means other things
        mallopt = c_library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
