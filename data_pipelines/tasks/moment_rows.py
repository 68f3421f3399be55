"""Which records, and which parts of them, are the rows of `tasks/moments.py`."""

import numpy as np

from data_pipelines import index
from vlp_jax.errors import UserError

EDGE = 1e-4  # s; what touches a clip by less does not


def rows(
  table: index.Table, keep: np.ndarray, unit: str
) -> tuple[np.ndarray, np.ndarray]:
  """(record [N], sub [N]): records, their moments, or the steps of each task once."""
  if unit == "video":
    return keep, np.zeros(len(keep), int)
  counts = table.columns["num_moments"][keep].astype(int)
  if unit == "step":
    tasks, first = np.unique(table.columns["task"][keep], return_index=True)
    keep = keep[first[tasks >= 0]]
    counts = table.columns["num_steps"][keep].astype(int)
  sub = [np.arange(c) for c in counts]
  return np.repeat(keep, counts), np.concatenate([*sub, np.zeros(0, int)])


def drawn(
  table: index.Table, keep: np.ndarray, per_task: int, draw: int, rest: bool
) -> np.ndarray:
  """The records of `keep` that are drawn, so many of each task; with `rest` all others.

  The draw is a function of (draw, task) and of how many records the task has. Of a task
  with fewer records all are drawn.
  """
  if not per_task:
    return keep
  task = table.columns["task"][keep]
  chosen = np.zeros(len(keep), bool)
  for one in np.unique(task):
    mine = np.flatnonzero(task == one)
    order = np.random.default_rng((draw, int(one) + 1)).permutation(mine)
    chosen[order[:per_task]] = True
  return keep[chosen != rest]


def check_lengths(
  table: index.Table, keep: np.ndarray, period_s: float, max_clips: int
) -> None:
  """Raises: UserError if a record is longer than `max_clips` clips of `period_s` s.

  What is annotated behind the cut would be missing in what an evaluator counts.
  """
  length = np.ceil(table.columns["duration_s"][keep] / period_s - EDGE)
  long = int((length > max_clips).sum())
  if long:
    most = int(length.max())
    raise UserError(
      f"{long} videos of {table.dir} ({table.split}) are longer than "
      f"max_clips={max_clips} of {period_s:g} s, the longest {most}; set "
      f"input.max_clips={most} or more."
    )
