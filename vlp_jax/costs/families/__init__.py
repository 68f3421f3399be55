"""Formulas of model families: one file each, found by the models that it names.

A family is a module with

  MODELS    names of files in vlp_jax/models
  forward(model, batch, lengths, objective) -> {part: FLOPs of a forward pass}
  recomputed(model, batch) -> FLOPs that rematerialisation adds to a step
  moved(model, batch, shards, parts) -> [(kind, count, bytes, axis)], collectives of a
            step beside those of parameters: over "batch" (`shards` of them) or over
            "model" (`parts`); bytes of all results on a device

`batch` holds the shapes of a global batch. `lengths` are means of real entries a row
({"tokens": 40.0, ...}, whatever the family says; the rest is full), for the useful
FLOPs; None counts everything that is computed, padding as well. `objective` says which
heads are used, with its keywords; None is a plain call of the model: all of them.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Mapping
from typing import Any

from vlp_jax import resolve
from vlp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Objective:
  """An objective's place "masked:mlm" and its keywords, defaults included."""

  name: str
  keywords: Mapping[str, Any]

  @classmethod
  def of(cls, bound: Callable | None) -> "Objective | None":
    """From what `Settings.objective` gives."""
    if bound is None:
      return None
    fn = getattr(bound, "func", bound)
    given = inspect.signature(fn).parameters.items()
    defaults = {k: p.default for k, p in given if p.default is not p.empty}
    file = fn.__module__.rpartition(".")[2]
    return cls(f"{file}:{fn.__name__}", defaults | getattr(bound, "keywords", {}))


def _families() -> dict[str, types.ModuleType]:
  names = (m.name for m in pkgutil.iter_modules(__path__))
  found = [importlib.import_module(f"{__name__}.{n}") for n in names]
  return {model: module for module in found for model in module.MODELS}


def of(model: Any) -> types.ModuleType:
  """The family of a linen module. Raises: UserError for one without formulas."""
  name = type(model).__module__.rpartition(".")[2]
  families = _families()
  if name not in families:
    raise UserError(
      f"no FLOPs formula for model {name!r}; add it to MODELS of a file in "
      f"vlp_jax/costs/families.{resolve.nearest(name, families)}"
    )
  return families[name]


def unknown(objective: Objective, known: Any) -> UserError:
  """The error for an objective whose heads a family cannot tell."""
  return UserError(
    f"no FLOPs formula for objective {objective.name!r} with this model family."
    f"{resolve.nearest(objective.name, known)}"
  )
