"""What the benchmarks share: one core, alternating rounds, one JSON line a case."""

import json
import os
import time
from collections.abc import Callable, Mapping

import numpy as np


def one_core() -> int:
  """Pins this process to one core and jax to one thread; before jax starts.

  Returns: the core.
  """
  core = min(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {core})
  os.environ |= {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
  return core


def spent(fn: Callable[[], object], clock: Callable[[], float]) -> Callable[[], float]:
  """Runs `fn` and returns the seconds that it took by that clock."""

  def run():
    begin = clock()
    fn()
    return clock() - begin

  return run


def alternate(
  cases: Mapping[str, Callable[[], object]],
  rounds: int,
  *,
  clock=time.perf_counter,
  warm: int = 1,
) -> dict[str, np.ndarray]:
  """name -> [rounds] seconds: every case once a round, so that all see the same load.

  Each is run `warm` times before, for compiles and caches. `clock` may be
  `time.process_time`: what this process used, whatever else the machine does; with None
  the cases return their own seconds, as those do that run in another process.
  """
  timed = {k: fn if clock is None else spent(fn, clock) for k, fn in cases.items()}
  found = {name: [] for name in cases}
  for k in range(warm + rounds):
    for name, fn in timed.items():
      seconds = fn()
      if k >= warm:
        found[name].append(seconds)
  return {name: np.array(s) for name, s in found.items()}


def emit(bench: str, case: str, **facts) -> dict:
  """Prints one JSON line; floats keep four digits. Returns what was printed."""
  short = lambda x: float(f"{x:.4g}") if isinstance(x, float | np.floating) else x
  line = {"bench": bench, "case": case} | {k: short(v) for k, v in facts.items()}
  print(json.dumps(line), flush=True)
  return line
