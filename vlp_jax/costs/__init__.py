"""What training costs, by formula: FLOPs, bytes, collectives, time; checked by tests.

`launch.cost` prints it; `meter` gives a running step its share of the peak FLOP/s.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vlp_jax.costs import chips, families
from vlp_jax.errors import UserError

KINDS = {  # start of a device's kind as jax names it -> chip
  "NVIDIA H100": "h100",
  "NVIDIA H200": "h200",
  "TPU v4": "v4",
  "TPU v5 lite": "v5e",
  "TPU v5": "v5p",
  "TPU v6 lite": "v6e",
}


def useful_flops(
  model: Any,
  batch: Mapping[str, jax.ShapeDtypeStruct | jax.Array],
  tokens: float | None = None,
  *,
  objective: Callable | None = None,
) -> float:
  """FLOPs that a training step of one global batch needs, padding left out.

  A few dozen multiplications, so it may be called in every step.

  Args:
    model: linen module of `vlp_jax.models`.
    batch: arrays or shapes of the *global* batch.
    tokens: real tokens in the batch, over all rows (`batch.useful`); None takes all
      as real. Families without lengths ignore it.
    objective: from `Settings.objective`; None counts every head of the model.
  Raises: UserError for a model or objective without formulas.
  """
  rows = families.rows(batch)
  lengths = {} if tokens is None else {"tokens": tokens / rows}  # {}: rows are full
  place, family = families.Objective.of(objective), families.of(model)
  parts = family.forward(model, batch, lengths, place)
  return family.training(model, parts, place)


def meter(
  model: Any, objectives: Mapping[str, Callable]
) -> Callable[[str, Mapping[str, jax.Array], float], tuple[float, float]]:
  """(task, global batch, real tokens) -> FLOPs of the step: useful, and with padding.

  Where a model or an objective has no formula both are 0: no run stops for want of one,
  and a log leaves out a share that is 0.
  """

  def measure(task, batch, tokens):
    flops_of = functools.partial(useful_flops, model, batch, objective=objectives[task])
    try:
      return flops_of(tokens), flops_of()
    except UserError:
      return 0.0, 0.0

  return measure


def peak(mesh: jax.sharding.Mesh, dtype: str = "bfloat16") -> float:
  """Peak FLOP/s of all devices of a mesh; 0 where the chip is not known."""
  kind = mesh.devices.flat[0].device_kind
  for start in sorted(KINDS, key=len, reverse=True):
    if kind.startswith(start):
      chip = chips.CHIPS[KINDS[start]]
      return mesh.size * (chip.float32_flops if dtype == "float32" else chip.flops)
  return 0.0
