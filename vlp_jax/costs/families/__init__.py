"""Formulas of model families: one file each, found by the models that it names.

A family is a module with

  MODELS    names of files in vlp_jax/models
  forward(model, batch, lengths, objective) -> {part: FLOPs of a forward pass}

and where it has anything to say

  frozen(model, objective) -> parts that no gradient reaches, by name or by what stands
            before a slash in it: they cost a forward pass only
  recomputed(model, batch, objective) -> FLOPs that rematerialisation adds to a step
  moved(model, batch, shards, parts) -> [(kind, count, bytes, axis)], collectives of a
            step beside those of parameters and of batch statistics: over "batch"
            (`shards` of them) or over "model" (`parts`); bytes of all results on a
            device

`batch` holds the shapes of a global batch. `lengths` are means of real entries a row
({"tokens": 40.0, ...}, whatever the family says; the rest is full), for the useful
FLOPs; None counts everything that is computed, padding as well. `objective` says which
passes and heads are used, with its keywords; None is a plain call of the model.
"""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax.costs import flops
from vlp_jax.errors import UserError

Shapes = Mapping[str, jax.ShapeDtypeStruct]
LOSS = "loss"  # the part of scores between rows, which caching does not run twice


@dataclasses.dataclass(frozen=True)
class Objective:
  """An objective's place "masked:mlm" and its keywords, defaults included.

  Attributes:
    cached: whether its encoders run twice (`objectives.cached_contrastive`).
  """

  name: str
  keywords: Mapping[str, Any]
  cached: bool = False

  @classmethod
  def of(cls, bound: Callable | None) -> "Objective | None":
    """From what `Settings.objective` gives."""
    if bound is None:
      return None
    fn = getattr(bound, "func", bound)
    given = inspect.signature(fn).parameters.items()
    defaults = {k: p.default for k, p in given if p.default is not p.empty}
    file = fn.__module__.rpartition(".")[2]
    keywords = defaults | getattr(bound, "keywords", {})
    return cls(f"{file}:{fn.__name__}", keywords, hasattr(fn, "value_and_grad"))


@dataclasses.dataclass(frozen=True)
class Family:
  """A family's module with what it leaves out."""

  module: types.ModuleType

  def forward(
    self,
    model: Any,
    batch: Shapes,
    lengths: Mapping[str, float] | None,
    objective: Objective | None,
  ) -> dict[str, float]:
    """See the header."""
    return self.module.forward(model, batch, lengths, objective)

  def frozen(self, model: Any, objective: Objective | None) -> tuple[str, ...]:
    """See the header."""
    given = getattr(self.module, "frozen", None)
    return tuple(given(model, objective)) if given else ()

  def training(
    self, model: Any, parts: Mapping[str, float], objective: Objective | None
  ) -> float:
    """FLOPs of a training step out of those of `forward`: three times, frozen once."""
    still = self.frozen(model, objective)
    is_still = lambda name: name in still or name.split("/")[0] in still
    return sum(x * (1 if is_still(k) else flops.TRAINING) for k, x in parts.items())

  def recomputed(self, model: Any, batch: Shapes, objective: Objective | None) -> float:
    """See the header."""
    given = getattr(self.module, "recomputed", None)
    again = given(model, batch, objective) if given else 0.0
    if objective is not None and objective.cached:
      parts = self.forward(model, batch, None, objective)
      again += sum(x for k, x in parts.items() if k != LOSS)
    return again

  def moved(
    self, model: Any, batch: Shapes, shards: int, parts: int
  ) -> list[tuple[str, int, float, str]]:
    """See the header."""
    given = getattr(self.module, "moved", None)
    return given(model, batch, shards, parts) if given else []


def _families() -> dict[str, types.ModuleType]:
  names = (m.name for m in pkgutil.iter_modules(__path__))
  found = [importlib.import_module(f"{__name__}.{n}") for n in names]
  return {model: module for module in found for model in module.MODELS}


def of(model: Any) -> Family:
  """The family of a linen module. Raises: UserError for one without formulas."""
  name = type(model).__module__.rpartition(".")[2]
  families = _families()
  if name not in families:
    raise UserError(
      f"no FLOPs formula for model {name!r}; add it to MODELS of a file in "
      f"vlp_jax/costs/families.{resolve.nearest(name, families)}"
    )
  return Family(families[name])


def source(model: Any) -> types.ModuleType:
  """The file of a model, with its tables of towers."""
  return sys.modules[type(model).__module__]


def known(objective: Objective | None, names: Iterable[str]) -> str:
  """The objective's name, "" for None. Raises: UserError unless it is of `names`."""
  if objective is None:
    return ""
  if objective.name not in names:
    raise UserError(
      f"no FLOPs formula for objective {objective.name!r} with this model family."
      f"{resolve.nearest(objective.name, names)}"
    )
  return objective.name


def rows(batch: Shapes) -> int:
  """Leading axis of a batch."""
  return next(iter(batch.values())).shape[0]


def places(batch: Shapes) -> int:
  """Tokens of a row, padding as well, as `batch.useful` counts them."""
  streams = (*batch_lib.TEXT, *batch_lib.TEXTS, *batch_lib.REGIONS, *batch_lib.CLIPS)
  masks = (batch[f"{s}_mask"] for s in streams if f"{s}_mask" in batch)
  return sum(math.prod(m.shape[1:]) for m in masks)


def share(batch: Shapes, lengths: Mapping[str, float] | None) -> float:
  """Real tokens over all places for them, as `batch.useful` counts: 1 if not given."""
  if not lengths or "tokens" not in lengths:
    return 1.0
  return lengths["tokens"] / max(places(batch), 1)


def again(model: Any, parts: Mapping[str, float], *towers: str) -> float:
  """FLOPs of `forward` in these towers if the model computes their blocks twice.

  With remat="dots" norms, gates and pools run again: a thousandth of the whole.
  """
  if getattr(model, "remat", "none") != "full":
    return 0.0
  blocks = (k for k in parts if k.split("/")[0] in towers and not k.endswith("/views"))
  return sum(parts[k] for k in blocks)


def predicted(
  lengths: Mapping[str, float] | None, places: float, rate: float, real: float
) -> float:
  """Masked places of a row that a head runs on: all of them, or those that are real.

  Args:
    places: P of the head; rate: of masking; real: words that can be masked.
  """
  return places if lengths is None else min(places, rate * max(real, 0))
