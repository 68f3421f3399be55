"""Published tables made to fit another task: type rows, positions, words, answers."""

from collections.abc import Mapping, Sequence

import numpy as np


def rows(table: np.ndarray, size: int, copy: Mapping[int, int]) -> np.ndarray:
  """A table [n, D] with `size` rows, the new ones copies of old ones.

  Args:
    copy: new row -> the row it starts from: {2: 1} for the second image of NLVR2,
      {2: 0, 3: 0} for answers and rationales of VCR.
  Raises: ValueError if a new row has no source, or rows would be lost.
  """
  if size < len(table):
    raise ValueError(f"a table of {len(table)} rows does not fit into {size}.")
  new = range(len(table), size)
  lacking = [i for i in new if i not in copy]
  if lacking:
    raise ValueError(f"rows {lacking} of {size} have no row to start from: {copy}.")
  return np.concatenate([table, *[table[copy[i]][None] for i in new]])


def words(table: np.ndarray, size: int, *, seed: int = 0) -> np.ndarray:
  """A word table [V, D] with further rows of N(0, 0.02) (VCR's 81 object tags)."""
  extra = size - len(table)
  if extra < 0:
    raise ValueError(f"a table of {len(table)} words does not fit into {size}.")
  draw = np.random.default_rng(seed).normal(0, 0.02, (extra, table.shape[1]))
  return np.concatenate([table, draw.astype(table.dtype)])


def positions(table: np.ndarray, size: int, *, how: str) -> np.ndarray:
  """A position table [n, D] with `size` rows.

  Args:
    how: "cut" keeps the first rows (only shorter), "zeros" adds rows of zeros, "linear"
      interpolates over the whole range, ends kept.
  """
  have = len(table)
  if how == "cut" and size <= have:
    return table[:size]
  if how == "zeros" and size >= have:
    return np.concatenate([table, np.zeros((size - have, table.shape[1]), table.dtype)])
  if how != "linear":
    raise ValueError(f"cannot make {size} positions of {have} with how={how!r}.")
  at = np.linspace(0, have - 1, size)
  low = np.minimum(at.astype(int), max(have - 2, 0))
  part = (at - low)[:, None].astype(table.dtype)
  return table[low] * (1 - part) + table[np.minimum(low + 1, have - 1)] * part


def answers(
  kernel: np.ndarray,
  bias: np.ndarray,
  old: Sequence[str],
  new: Sequence[str],
  *,
  fill: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Columns of an answer layer moved to another answer list, by the answer's name.

  Args:
    kernel, bias: [D, len(old)] and [len(old)]; fill: of answers that are not in `old`.
  Returns: kernel [D, len(new)], bias [len(new)], the new answers without a source.
  """
  if kernel.shape[-1] != len(old) or len(set(old)) != len(old):
    raise ValueError(f"{kernel.shape[-1]} columns, {len(set(old))} distinct answers.")
  place = {a: i for i, a in enumerate(old)}
  at = np.array([place.get(a, -1) for a in new])
  known = at >= 0
  kernel = np.where(known, kernel[:, at], np.asarray(fill, kernel.dtype))
  bias = np.where(known, bias[at], np.asarray(fill, bias.dtype))
  return kernel, bias, tuple(a for a in new if a not in place)
