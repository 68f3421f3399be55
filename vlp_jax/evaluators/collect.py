"""Outputs of a model over a whole evaluation set, as numpy arrays on the host.

Every evaluator starts here: the forward pass is jitted once (one compile per shape of
the pipeline's ladder), padded rows are dropped, and with several processes every one of
them ends with all rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vlp_jax.metrics import wide


class Forward:
  """`apply` with train=False, jitted once; `forward(variables, batches)` -> arrays.

  Keep one for the life of an evaluator: a new one compiles again.

  Args:
    apply: `apply(variables, batch, *, rng, train, method) -> (out, mutable)`.
    outputs: names of model outputs, or of batch keys that the model does not return.
    method: method of the model, as "encode_text"; None for `__call__`.
    optional: names that may be missing; they are then missing from the result.
  """

  def __init__(
    self,
    apply: Callable,
    outputs: Sequence[str],
    *,
    method: str | None = None,
    optional: Sequence[str] = (),
  ):
    self.outputs, self.optional = tuple(outputs), tuple(optional)

    def step(variables, batch):
      out, _ = apply(variables, batch, train=False, method=method)
      have = dict(batch) | dict(out)
      missing = [k for k in self.outputs if k not in have]
      if missing:
        raise KeyError(
          f"the evaluator wants {missing}; the model's {method or '__call__'} returns "
          f"{sorted(out)} and the batch holds {sorted(batch)}."
        )
      names = [*self.outputs, *(k for k in self.optional if k in have)]
      found = {k: wide(have[k]) for k in names}
      if "example_mask" in batch:
        found["example_mask"] = batch["example_mask"]
      return found

    self.step = jax.jit(step)

  def __call__(self, variables, batches: Iterable[Mapping]) -> dict[str, np.ndarray]:
    """All real rows, in order: {name: [rows, ...]}; floats are float32 or float64.

    Raises: ValueError if there is no row, or batches disagree in keys or inner shapes.
    """
    chunks, pending = [], None
    for batch in batches:
      out = self.step(variables, batch)  # dispatched before the last one is fetched
      if pending is not None:
        chunks.append(fetch(pending))
      pending = out
    if pending is not None:
      chunks.append(fetch(pending))
    if not sum(len(next(iter(c.values()))) for c in chunks):
      raise ValueError("no row to evaluate: is the evaluation set empty?")
    return {k: _concatenate(k, chunks) for k in chunks[0]}


def collect(
  apply: Callable,
  variables,
  batches: Iterable[Mapping],
  outputs: Sequence[str],
  *,
  method: str | None = None,
) -> dict[str, np.ndarray]:
  """`Forward` for a single use; see there. It compiles at each call."""
  return Forward(apply, outputs, method=method)(variables, batches)


def fetch(out):
  """Arrays of one batch on this host, all processes' rows, without the padded ones."""
  if jax.process_count() > 1:
    out = multihost_utils.process_allgather(out, tiled=True)
  out = {k: np.asarray(x) for k, x in out.items()}
  keep = out.pop("example_mask", None)
  return out if keep is None else {k: x[keep] for k, x in out.items()}


def rows(
  batches: Iterable[Mapping], wanted: set[int], keys: Sequence[str]
) -> dict[int, dict[str, np.ndarray]]:
  """{example_id: {key: row}} of the wanted ids; reads no further than it must.

  A key that a batch lacks is missing from its rows.
  """
  found = {}
  for batch in batches:
    keep = [k for k in (*keys, "example_id", "example_mask") if k in batch]
    some = fetch({k: batch[k] for k in keep})
    for i, at in enumerate(some["example_id"].tolist()):
      if at in wanted and at not in found:
        found[at] = {k: some[k][i] for k in keys if k in some}
    if wanted <= set(found):
      break
  return found


def _concatenate(name, chunks):
  have = [c for c in chunks if name in c]
  shapes = {c[name].shape[1:] for c in have}
  if len(have) != len(chunks) or len(shapes) != 1:
    raise ValueError(
      f"{name} is in {len(have)} of {len(chunks)} batches with inner shapes "
      f"{sorted(shapes)}; an evaluator needs it in all, with one shape per row."
    )
  return np.concatenate([c[name] for c in have])


class Groups(NamedTuple):
  """Rows of equal id put together: `values` [G, ...], `ids` [G], `first` [G], `of` [n].

  Groups come in the order of their first row; `first` is that row, `of` maps each row
  to its group.
  """

  values: np.ndarray
  ids: np.ndarray
  first: np.ndarray
  of: np.ndarray


def group_mean(embeds: np.ndarray, group_id: np.ndarray | None) -> Groups:
  """Means over the rows of the same group (windows or views of one clip).

  Args:
    embeds: [n, ...] float.
    group_id: [n] int, or None where every row is its own group.
  Returns: `Groups`; the means are taken in float64, so they do not depend on the order
    in which batches came, and keep the dtype of `embeds`.
  """
  n = len(embeds)
  group_id = np.arange(n) if group_id is None else np.asarray(group_id)
  if group_id.shape != (n,):
    raise ValueError(f"group_id has shape {group_id.shape} for {n} rows.")
  ids, first, of, count = np.unique(
    group_id, return_index=True, return_inverse=True, return_counts=True
  )
  order = np.argsort(first)
  place = np.empty_like(order)
  place[order] = np.arange(len(order))
  ids, first, of, count = ids[order], first[order], place[of], count[order]
  if len(ids) == n:
    return Groups(embeds, ids, first, of)
  total = np.zeros((len(ids), *embeds.shape[1:]))
  np.add.at(total, of, embeds)
  values = total / count.reshape(-1, *[1] * (embeds.ndim - 1))
  return Groups(values.astype(embeds.dtype), ids, first, of)
