"""Which clips train and which are held out, so that nothing of one is in both."""

from collections.abc import Iterator

import numpy as np


def leave_one_out(
  label: np.ndarray, *apart: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
  """(value, held out [n] bool) for each value of a label of the rows.

  Args:
    label: [n] int: the fold, the speaker. apart: [n] int groups each, of which none may
      lie on both sides (windows of a clip, clips of a recording).
  Raises: ValueError where a group straddles values, for rows without a value (below
    0), and for a single value.
  """
  if (label < 0).any():
    raise ValueError(f"{int((label < 0).sum())} rows are in no fold (-1).")
  for group in apart:
    pairs = np.unique(np.stack([group, label]), axis=1)
    ids, counts = np.unique(pairs[0], return_counts=True)
    if (counts > 1).any():
      one = ids[counts > 1][0]
      raise ValueError(
        f"group {one} straddles folds {pairs[1][pairs[0] == one].tolist()}, as do "
        f"{int((counts > 1).sum())} in all. Parts of one recording must stay in one."
      )
  values = np.unique(label)
  if len(values) < 2:
    raise ValueError(f"all rows are in fold {values}; at least two are needed.")
  for value in values:
    yield int(value), label == value


def by_group(
  y: np.ndarray, group: np.ndarray, *, folds: int, seed: int = 0
) -> list[np.ndarray]:
  """Held out [n] bool of each of `folds` folds: groups stay together.

  Classes are spread evenly (scikit-learn's StratifiedGroupKFold); with several labels a
  row, y [n, K], only the groups are (GroupKFold).
  """
  try:
    from sklearn import model_selection
  except ImportError as e:
    raise ImportError(
      "choosing C needs scikit-learn: pip install scikit-learn; or give one value of C."
    ) from e
  kind = model_selection.GroupKFold
  if y.ndim == 1:
    kind = model_selection.StratifiedGroupKFold
  split = kind(folds, shuffle=True, random_state=seed)
  held = []
  for _, test in split.split(np.zeros((len(y), 1)), y, group):
    held.append(np.isin(np.arange(len(y)), test))
  return held
