"""Which pretraining task a step takes: one a step, drawn by weight.

The draw is a function of (seed, step) alone, so every host agrees and a resumed run
goes on as the unbroken one would. UNITER draws uniformly from a pool in which each task
stands as often as its ratio says, once per optimizer step; that is this draw.
"""

from collections.abc import Iterable, Mapping

import numpy as np


def open_at(
  schedule: Mapping[str, float], spans: Mapping[str, tuple[int, int]], step: int
) -> dict[str, float]:
  """The part of the schedule that is drawn at `step`.

  Args:
    spans: task -> (first step that may take it, the first that may not), from 0.
  """
  return {k: w for k, w in schedule.items() if spans[k][0] <= step < spans[k][1]}


def uncovered(spans: Iterable[tuple[int, int]], total: int) -> int | None:
  """The first step of 0 .. total - 1 in no span, or None."""
  step = 0
  for low, high in sorted(spans):
    if low > step:
      break
    step = max(step, high)
  return step if step < total else None


def pick(seed: int, step: int, schedule: Mapping[str, float]) -> str:
  """The task of `step`; weights need not sum to one, 0 switches a task off.

  Raises: ValueError when no weight is positive.
  """
  names = sorted(schedule)
  weights = np.array([schedule[n] for n in names], np.float64)
  if not (weights >= 0).all() or not weights.sum() > 0:
    raise ValueError(f"task weights must be >= 0 with a positive sum: {dict(schedule)}")
  if len(names) == 1:
    return names[0]
  edges = np.cumsum(weights) / weights.sum()
  draw = np.random.default_rng((seed, 0x7A5C, step)).random()
  return names[int(np.searchsorted(edges, draw, side="right"))]
