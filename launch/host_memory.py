"""Keeps freed memory in the process, so that CPU steps do not fault it in again.

XLA on a CPU asks for the temporaries of a program anew at each run, 140 MB of them for
a small network. glibc maps such a piece of memory and gives it back afterwards, and the
kernel clears every page once more: a quarter of a training step. Here it is told to
take all memory from one heap and to keep that. A process then stays as large as it once
was, and threads that allocate much wait for each other: it is for steps on few cores.
"""

import ctypes

# Of malloc.h: heaps, pieces mapped, and what is given back when freed.
_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1
NEVER = -1  # trim: 2**31 - 1 would give back whatever is above two gigabytes
# The same for a process that is to be started.
KEEP = {
  "MALLOC_ARENA_MAX": "1",
  "MALLOC_MMAP_MAX_": "0",
  "MALLOC_TRIM_THRESHOLD_": str(2**64 - 1),
}


def keep() -> bool:
  """Keeps freed memory from now on; call it before jax starts its threads.

  Returns: False where the C library is not glibc, and nothing is changed.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return False
  given = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: NEVER}
  return all([mallopt(key, value) for key, value in given.items()])
