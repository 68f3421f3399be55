"""Whether a model fits its prepared data: told in a line, before anything compiles.

What is compared is what else shows late or never: an id beyond a table is NaN or, one
beyond, [MASK], and features of another width are an error of the first trace.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vlp_jax import declared, resolve
from vlp_jax.cluster_tree import Tree
from vlp_jax.errors import UserError


def check(model: Any, settings: Any, trees: Mapping[str, Tree]) -> None:
  """`tokens`, and `width` for all inputs of a run.

  Args:
    settings: with tasks, evals and input, as `settings.Settings` and `zero_shot.Job`;
      paths of twins are places on disk (`settings.with_twins`).
    trees: of `sources.trees`.
  """
  tokens(model, trees)
  for what, given in _inputs(settings):
    width(model, what, given)


def tokens(model: Any, trees: Mapping[str, Tree]) -> None:
  """Raises UserError unless a model of video tokens has as many as each tree leaves."""
  if "clips_tokens" not in model.spec():
    return
  for tree in trees.values():
    if tree.size != model.num_tokens:
      raise UserError(
        f"the tree has {tree.size} leaves ({tree.branching}^{tree.depth}), "
        f"model.num_tokens is {model.num_tokens}. Set it, and num_tokens of the tasks, "
        "to the number of leaves, or input.tree to the model's tree."
      )


def width(model: Any, what: str, given: Mapping[str, Any]) -> None:
  """Raises UserError if the data of an input have features that the model cannot take.

  Args:
    what: the input's place in the config. given: its keywords; data without
      `features` in dataset_info.json are not looked at.
  """
  if given.get("mixture"):
    mixture = resolve.module("data_pipelines", "mixture")
    for name, (member, _) in mixture.members(given, what).items():
      width(model, f"{what}.mixture.{name}", member)
    return
  spec, found = model.spec(), _width(given)
  if found is None or "clips_features" not in spec:
    return
  wanted = spec["clips_features"].shape[-1]
  if found != wanted:
    field = next(k for k in ("feature_dim", "feature_dims") if hasattr(model, k))
    raise UserError(
      f"{what}.dir={given['dir']} has features of width {found}, the model takes "
      f"{wanted}. Set model.{field} to that of the data, or give other data."
    )


def _width(given) -> int | None:
  """Of the clips_features that an input gives; None if it gives none."""
  at = epath.Path(given.get("dir") or ".") / "dataset_info.json"
  if not given.get("dir") or not given.get("task") or not at.exists():
    return None
  networks = [int(n["width"]) for n in json.loads(at.read_text()).get("features") or ()]
  define = declared.function("data_pipelines.tasks", given["task"], "define")
  known = inspect.signature(define).parameters
  if "fields" in known:
    gives = "features" in (given.get("fields") or ())
  else:  # a tree's leaves come in place of them
    gives = not given.get("tree") or given.get("keep_features")
  if not networks or not gives:
    return None
  if "network" not in known:
    return sum(networks)
  one = given.get("network") or 0
  return networks[one] if one in range(len(networks)) else None  # the task says it


def _inputs(settings) -> Iterator[tuple[str, dict]]:
  for name in settings.tasks:
    yield f"tasks.{name}.input", settings.task_input(name)
  for name, entry in settings.evals.items():
    for key, given in entry.items():
      if isinstance(given, Mapping):
        yield f"evals.{name}.{key}", dict(settings.input) | dict(given)
