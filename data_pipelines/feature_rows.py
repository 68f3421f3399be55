"""Feature shards as arrays with their labels, for probes without a model.

Reads data sets of kind `clip_features` (of launch.extract, or prepared from files of
features) by numpy alone. A row is a window: `features/<k>/data` of all networks side by
side, at the places of the first.
"""

import re
from collections.abc import Mapping

import numpy as np

from data_pipelines import index, progress, records
from vlp_jax.errors import DataBudgetError, UserError

LOST = 0.001  # share of records that may be damaged


def load(
  dir,
  split: str,
  *,
  where: Mapping | None = None,
  num_classes: int = 0,
  quiet: bool = False,
) -> dict[str, np.ndarray]:
  """All rows of a split.

  Args:
    where: {name: value or list} of labels: {"fold": [2, 3]}, {"action": 4}.
    num_classes: K of several labels a record; 0 for one.
  Returns: features [n, D] float32, group_id [n] int32 (the record); label [n] int32 or
    [n, K] float32, and label_<name> [n] int32 for each label that a record has (-1 in
    the others): fold, speaker, group, action, shape, colour. Names become the numbers
    of dataset_info, or of their sorted list.
  Raises: UserError for another kind of data or an unknown label; DataBudgetError if too
    many records are damaged.
  """
  info, table = index.read_info(dir), index.load(dir, split)
  if info.get("kind") != "clip_features":
    raise UserError(
      f"{dir} is of kind {info.get('kind')!r}; feature shards (launch.extract) are of "
      "kind 'clip_features'."
    )
  features, labels, lost = [], [], 0
  with progress.bar(f"features of {split}", len(table), quiet=quiet) as advance:
    for record in range(len(table)):
      try:
        x, known = _record(table, record)
        if features and x.shape[1] != features[0][1].shape[1]:
          raise ValueError(f"{x.shape[1]} features, others {features[0][1].shape[1]}")
      except (ValueError, KeyError, IndexError):
        lost += 1
        if lost > max(1, LOST * len(table)):
          at = table.place(record)
          message = f"{dir}: {lost} damaged records, the last {at}."
          raise DataBudgetError(message) from None
        continue
      finally:
        advance(record + 1)
      features.append((record, x))
      labels.append(known)
  if not features:
    raise UserError(f"{dir} ({split}) holds no features.")
  count = [len(x) for _, x in features]
  out = {"features": np.concatenate([x for _, x in features])}
  out["group_id"] = np.repeat([r for r, _ in features], count).astype(np.int32)
  names = {k for known in labels for k in known} - {"labels"}
  for name in sorted(names):
    values = _numbers([k.get(name) for k in labels], _listed(info, name))
    out[_key(name)] = np.repeat(values, count)
  if num_classes:
    hot = np.zeros((len(labels), num_classes), np.float32)
    for row, known in zip(hot, labels, strict=True):
      row[np.asarray(known.get("labels", ()), int)] = 1
    out["label"] = np.repeat(hot, count, axis=0)
  keep = np.ones(len(out["group_id"]), bool)
  for name, value in (where or {}).items():
    if _key(name) not in out:
      raise UserError(
        f"where: {dir} ({split}) has no {name!r}; it has {sorted(names)}."
      )
    keep &= np.isin(out[_key(name)], np.atleast_1d(value))
  return {k: x[keep] for k, x in out.items()}


def _key(name):
  return "label" if name == "label" else f"label_{name}"


def _record(table, record):
  """(features [n, D] float32, {name: number or text}) of one record."""
  with open(table.paths[table.file[record]], "rb") as f:
    f.seek(int(table.offset[record]) + records.HEADER)
    context, _ = records.decode(f.read(int(table.length[record])))
  parts, k = [], 0
  while f"features/{k}/data" in context:
    width = int(context[f"features/{k}/width"][0])
    flat = np.frombuffer(context[f"features/{k}/data"][0], "<f2")
    parts.append(flat.reshape(-1, width).astype(np.float32))
    k += 1
  if len({len(p) for p in parts}) != 1:
    raise ValueError(f"networks of {[len(p) for p in parts]} rows, side by side")
  known = {}
  for name, value in context.items():
    match = re.fullmatch(r"label|labels|fold|speaker|group|label/(\w+)|tag/(\w+)", name)
    if match and len(value):
      name = match[1] or match[2] or name
      known[name] = value if name == "labels" else _plain(value)
  return np.concatenate(parts, axis=1), known


def _plain(value):
  one = value[0]
  return one.decode() if isinstance(one, bytes) else int(one)


def _listed(info, name):
  """The names of a label by number; () if there are none."""
  names = info.get("classes", {}).get(name, ())
  return info.get("speakers", ()) if name == "speaker" else names


def _numbers(values, listed) -> np.ndarray:
  """[n] int32; texts by their place in `listed`, or sorted; -1 for none."""
  texts = sorted({v for v in values if isinstance(v, str) and v} - set(listed))
  place = {name: i for i, name in enumerate([*listed, *texts])}
  number = lambda v: place.get(v, -1) if isinstance(v, str) else v
  return np.array([-1 if v is None else number(v) for v in values], np.int32)
