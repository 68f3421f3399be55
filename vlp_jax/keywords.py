"""Which keys a mapping of a config takes beside those that stand in it.

Behind most mappings is a function or a model: any of its keywords may be set, also one
that the config leaves at its default. TensorFlow is not imported: the signatures of
pipelines are read from their source (`vlp_jax.declared`).
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vlp_jax import resolve
from vlp_jax import settings as settings_lib
from vlp_jax.errors import UserError
from vlp_jax.vocab import Vocab

# Mappings at the top of a config that it may leave out.
OPTIONAL = ("vocab", "input", "evals", "mesh", "checkpoint", "rounds", "after_update")
OPTIONAL += ("init_from",)


def optional(parents: tuple[str, ...]) -> bool:
  """Whether a config may leave this mapping out: `parents` end with its name."""
  match parents:
    case (name,):
      return name in OPTIONAL
    case ("tasks", _, "input"):  # laid over the input of all tasks
      return True
  return False


def check(config: Mapping, parents: tuple[str, ...], key: str, value: Any) -> None:
  """Raises: UserError unless the mapping at `parents` takes the key.

  Args: config: as plain mappings; value: what the key is to be, for keys of inputs.
  """
  node = config
  for name in parents:
    node = node.get(name, {})
  if key in node:
    return
  if (given := _input(config, parents)) is not None:
    stand_in = {"dir": "", "split": "", "task": given.get("task")}
    what = ".".join(parents)
    resolve.module("data_pipelines", "batches").check(
      {**stand_in, **given, key: value}, what
    )
    return
  known = {*node, *_known(config, parents, node)}
  if key not in known:
    path = ".".join((*parents, key))
    raise UserError(f"--config.{path}: no {key!r}.{resolve.nearest(key, known)}")


def _input(config, parents) -> dict | None:
  """Keywords of the input that stands at `parents`; None for no input."""
  base = dict(config.get("input", {}))
  match parents:
    case ("input",):
      return base
    case ("tasks", task, "input"):
      return base | dict(config["tasks"][task].get("input", {}))
    case ("evals", name, part):
      return base | dict(config["evals"][name][part])
  return None


def _known(config, parents, node) -> set[str]:
  """Keywords of what stands behind a mapping, {} if nothing does."""
  match parents:
    case ():
      return {*settings_lib.KEYS}
    case ("model",) if isinstance(node.get("name"), str):
      found = resolve.module("vlp_jax.models", node["name"])
      return _names(found.Model) - {"parent"} | {"variant"}
    case ("tasks", _) if "objective" in node:
      fn = resolve.function("vlp_jax.objectives", node["objective"])
      return _names(fn, skip=4) | {*settings_lib.TASK_KEYS}
    case ("evals", name) if "evaluator" in node:
      cls, _, _ = settings_lib.evaluator(name, node)
      return _names(cls, skip=1) | {"tasks"}
    case ("optim",) if "name" in node:
      from vlp_jax import optim, update_rules

      rules = {r.__name__: r for r in update_rules.RULES}
      own = _names(rules[node["name"]]) if node["name"] in rules else set()
      return _names(optim.build, skip=1) | own
    case ("checkpoint",):
      return _names(settings_lib.Checkpointing)
    case ("mesh",):
      from vlp_jax import sharding

      return {*sharding.AXES}
    case ("vocab",) if isinstance(node.get("name"), str):
      found = resolve.module("data_pipelines.vocabularies", node["name"])
      return _names(found.load) | {"name"}
    case ("vocab",):
      return _names(Vocab)
    case ("init_from",):
      own = {*settings_lib.INIT_KEYS}
      if isinstance(node.get("importer"), str):
        found = resolve.module("vlp_jax.importers", node["importer"])
        own |= _names(found.convert, skip=2) - {"trees"}  # the run gives these
      return own
    case ("after_update",) if "fn" in node:
      return _names(resolve.function("vlp_jax.objectives", node["fn"]), skip=1)
    case ("rounds", _) if "fn" in node:
      fn = resolve.function("vlp_jax.objectives", node["fn"])
      return _names(fn, skip=3) | {*settings_lib.ROUND_KEYS}
  return set()


def _names(fn: Callable, skip: int = 0) -> set[str]:
  """Keywords of a function or class, without its first `skip` parameters."""
  parameters = list(inspect.signature(fn).parameters.values())[skip:]
  named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  return {p.name for p in parameters if p.kind in named}
