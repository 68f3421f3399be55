"""Shapes of the batches that a source will give, before a record is read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipelines import plan

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]  # key -> (shape, dtype)


def of(source: Any) -> list[Shapes]:
  """Of this host's rows of each rung of an opened source of `batches`.

  A row of nothing goes through the source's own `finish`, so that these are the keys
  and shapes of what comes, whatever a task does to its rows.
  """
  return [_rung(source, k) for k in range(len(source.rungs))]


def _rung(source, k) -> Shapes:
  length = source.read_as[k].length
  features = source.definition.task.output_features
  made = {
    key: np.zeros((1, *shape), features[key].dtype.as_numpy_dtype)
    for key, shape in source.definition.shapes(length).items()
  }
  made["row"] = np.full(1, plan.NONE)
  planned = {"rung": k, "epoch": 0, "candidates": np.full((1, 1), plan.NONE)}
  planned |= {"slots": np.zeros(1, int), "rows": 1}
  rows = source.rungs[k].rows // source.num_hosts
  found = source.finish(planned, made)
  return {key: ((rows, *x.shape[1:]), x.dtype) for key, x in found.items()}
