"""Weights of published checkpoints as our parameters, one family a file, numpy only.

`<family>.convert(arrays, model) -> (variables, Report)` takes arrays by their published
names and hands back the parameters it could fill. What it does not fill is `missing`
and what it does not use is `unused`; each family says which of these it expects (a BERT
checkpoint has no image parts), and any other is an error that names them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vlp_jax import batch as batch_lib


class Report(NamedTuple):
  """What became of every entry.

  Attributes:
    loaded: our parameters that were filled, as `encoder/stack/layers/...`.
    reshaped: of these, the ones transposed, split or stacked.
    surgery: changes of content in words (type rows copied, positions resized).
    unused: published names left over; missing: our parameters left as initialised.
  """

  loaded: tuple[str, ...]
  reshaped: tuple[str, ...]
  surgery: tuple[str, ...]
  unused: tuple[str, ...]
  missing: tuple[str, ...]


def shapes(model) -> dict[str, tuple[int, ...]]:
  """path -> shape of the parameters of a model with `spec()`; allocates nothing."""
  return _shapes(_variables(model)["params"])


def all_shapes(model) -> dict[str, tuple[int, ...]]:
  """The same of all variables: `params/...`, `batch_stats/...`."""
  return _shapes(_variables(model))


def _variables(model):
  example = batch_lib.zeros(model.spec())
  return jax.eval_shape(model.init, jax.random.key(0), example)


def _shapes(tree):
  plain = lambda x: getattr(x, "value", x)  # out of the box that holds axis names
  leaves = jax.tree_util.tree_leaves_with_path(
    tree, is_leaf=lambda x: hasattr(x, "names")
  )
  keystr = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return {keystr(path): tuple(plain(x).shape) for path, x in leaves}


class Source:
  """Published arrays under one spelling, remembering which were used.

  The prefix `module.` goes, `gamma`/`beta` become `weight`/`bias`, and buffers of no
  content (`position_ids`, `num_batches_tracked`) are dropped.
  """

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self.arrays, self.used = {}, set()
    for name, x in arrays.items():
      name = re.sub(r"^(module\.)+", "", name)
      name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
      if name.endswith((".position_ids", ".num_batches_tracked")):
        continue
      if name in self.arrays:
        raise ValueError(f"two entries become {name!r} once their prefix is dropped.")
      self.arrays[name] = np.asarray(x)

  def rename(self, pattern: str, to: str) -> None:
    """Renames all entries whose name matches the regular expression."""
    self.arrays = {re.sub(pattern, to, k): x for k, x in self.arrays.items()}

  def __contains__(self, name: str) -> bool:
    return name in self.arrays

  def has(self, prefix: str) -> bool:
    return any(k.startswith(prefix) for k in self.arrays)

  def take(self, name: str) -> np.ndarray:
    """The array, as float32 when it is a float of another width."""
    if name not in self.arrays:
      raise KeyError(
        f"the checkpoint has no {name!r}; it has {len(self.arrays)} entries, as "
        f"{', '.join(sorted(self.arrays)[:5])}."
      )
    self.used.add(name)
    x = self.arrays[name]
    return x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x

  def tied(self, name: str, to: np.ndarray) -> None:
    """Marks an entry that repeats another; ValueError if it does not."""
    if name in self.arrays and not np.array_equal(self.take(name), to):
      raise ValueError(f"{name} is tied in this model, but differs in the checkpoint.")

  @property
  def unused(self) -> list[str]:
    return sorted(set(self.arrays) - self.used)


def finish(
  flat: Mapping[str, np.ndarray],
  want: Mapping[str, tuple[int, ...]],
  source: Source,
  *,
  reshaped: Iterable[str] = (),
  surgery: Iterable[str] = (),
  may_miss: Iterable[str] = (),
  may_leave: Iterable[str] = (),
) -> tuple[dict[str, Any], Report]:
  """Checks converted arrays against the model and builds the tree.

  Args:
    flat: path -> array; want: path -> shape, as from `shapes`.
    may_miss, may_leave: regular expressions (searched at the start of the path or
      name) of parameters that may stay as initialised, and of entries not used.
  Returns: ({"params": tree of what was loaded}, report).
  Raises: ValueError naming every unexplained leftover and every wrong shape.
  """
  listed = lambda names: ", ".join(sorted(names)[:20]) + f" ({len(names)} in all)"
  unknown = [k for k in flat if k not in want]
  if unknown:
    raise ValueError(f"the model has no parameters {listed(unknown)}.")
  wrong = [
    f"{k}: checkpoint {x.shape}, model {want[k]}"
    for k, x in flat.items()
    if x.shape != want[k]
  ]
  if wrong:
    raise ValueError(f"shapes differ: {listed(wrong)}. Does the model's config fit?")
  fits = lambda patterns, name: any(re.match(p, name) for p in patterns)
  missing, unused = sorted(set(want) - set(flat)), source.unused
  lacking = [k for k in missing if not fits(may_miss, k)]
  extra = [k for k in unused if not fits(may_leave, k)]
  if lacking or extra:
    raise ValueError(
      f"unexplained leftovers. Missing in the checkpoint: {listed(lacking)}; not used "
      f"by the model: {listed(extra)}."
    )
  tree: dict[str, Any] = {}
  for path, x in flat.items():
    *parents, leaf = path.split("/")
    node = tree
    for name in parents:
      node = node.setdefault(name, {})
    node[leaf] = np.ascontiguousarray(x)
  report = Report(
    tuple(sorted(flat)),
    tuple(sorted(set(reshaped))),
    tuple(surgery),
    tuple(unused),
    tuple(missing),
  )
  return {"params": tree}, report
