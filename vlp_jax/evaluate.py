"""The same evaluators with and without training, and where parameters come from."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vlp_jax import checkpoint, importers, resolve, restore, snapshot, sources
from vlp_jax import settings as settings_lib
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.formats import read as read_lib
from vlp_jax.metrics import Result


def build(
  s: settings_lib.Settings,
  apply: Callable,
  mesh: jax.sharding.Mesh,
  tokeniser: Any,
  *,
  objectives: Mapping[str, Callable],
  vocab: Any,
  check: Callable[[], None] = lambda: None,
  given: Mapping[str, Callable] | None = None,
) -> dict[str, Any]:
  """Evaluators by name. `given` makes further ones from `apply`: {name: apply -> ev}.

  `check` is called for every batch and may raise. An evaluator that asks for
  `objectives` gets those of its `tasks`, by default all.
  """
  out = {}
  for name, entry in s.evals.items():
    cls, inputs, others = settings_lib.evaluator(name, entry)
    read = {
      k: sources.evaluation(dict(s.input) | dict(v), tokeniser, mesh, check=check)
      for k, v in inputs.items()
    }
    mine = {t: objectives[t] for t in entry.get("tasks", objectives)}
    make = resolve.bind(
      cls,
      others | read,
      inject={"objectives": mine, "vocab": vocab, "tokeniser": tokeniser},
      skip=["apply"],
      what=f"evals.{name}",
    )
    out[name] = make(apply)
  for name, make in (given or {}).items():
    out[name] = make(apply)
  return out


def run_all(
  evaluators: Mapping[str, Any], variables: Mapping[str, Any], log: Any = None
) -> dict[str, Result]:
  """{"<evaluator>/<metric>": Result} of every evaluator."""
  results = {}
  for name, evaluator in evaluators.items():
    if log is not None:
      log.say(f"evaluating {name}")
    for metric, result in evaluator.run(variables):
      results[f"{name}/{metric}"] = result
  return results


def init_from(
  state,
  given: Mapping[str, Any],
  model,
  shardings,
  *,
  vocab: Any = None,
  trees: Mapping[str, Any] | None = None,
):
  """A fresh state with parameters of another run or of a published checkpoint.

  Args:
    given: path; importer (a file of `vlp_jax/importers`) for published weights, or for
      another run's that it changes, and its keywords; `only`, a regular expression: of
      another run what it finds is taken, as "video_tower" to fine-tune a tower, and all
      else keeps its fresh values; `override`: vocabulary and tree may be others.
    vocab, trees: of this run. What is taken must be of the same ones: all of a run's
      variables, or of a part those whose sizes depend on them.
  """
  given = dict(given)
  path, family = given.pop("path", None), given.pop("importer", None)
  only, override = given.pop("only", ""), given.pop("override", False)
  if not path:
    raise UserError("init_from.path is missing.")
  trees, ours = {} if override else dict(trees or {}), restore.holds(path)
  taken = None  # of another run: all that it has
  if family:
    arrays = flat(checkpoint.load_variables(path)) if ours else read_lib.read(path)
    convert = resolve.module("vlp_jax.importers", family).convert
    inject = {"trees": trees}
    convert = resolve.bind(convert, given, inject=inject, skip=2, what="init_from")
    try:
      taken, report = convert(arrays, model)
    except (KeyError, ValueError) as error:
      raise UserError(
        f"init_from.path={path}, importer {family!r}: {error.args[0]}"
      ) from error
    variables = _overlay(state.variables, taken) if report.missing else taken
  else:
    variables = checkpoint.load_variables(path)
    if given:
      raise UserError(f"init_from: {sorted(given)} are keywords of an importer.")
  if only:
    taken = part(state.variables, variables, only)
    variables = _overlay(state.variables, taken)
  if ours and not override:
    mine = snapshot.identities(vocab, None, trees)
    if taken is not None:
      counts = _depend(model, flat(taken))
      mine = {k: x for k, x in mine.items() if k.split("_")[0] in counts}
    restore.same_meaning(path, mine)
  return place(state, variables, shardings)


def _depend(model, taken: Mapping[str, Any]) -> set[str]:
  """Which of `vocabulary` and `tree` some of these variables have a row for each id of.

  Found by making each of the two larger: names of parameters do not tell.
  """
  sizes, more, found = importers.all_shapes(model), {}, set()
  if hasattr(model, "vocab_size"):
    more["vocabulary"] = dict(vocab_size=model.vocab_size + 1)
  elif hasattr(model, "vocab"):
    larger = dataclasses.replace(model.vocab, size=model.vocab.size + 1)
    more["vocabulary"] = dict(vocab=larger)
  if hasattr(model, "num_tokens"):
    more["tree"] = dict(num_tokens=model.num_tokens + 1)
  for name, fields in more.items():
    others = importers.all_shapes(model.clone(**fields))
    if any(sizes.get(k) != others.get(k) for k in taken):
      found.add(name)
  return found


def part(mine, variables, only):
  """Variables whose path `only` finds. Raises: CheckpointError where mine differ."""
  wanted = {k for k in flat(mine) if re.search(only, k)}
  found = {k: x for k, x in flat(variables).items() if re.search(only, k)}
  if wanted != set(found) or not wanted:
    lacking, extra = sorted(wanted - set(found)), sorted(set(found) - wanted)
    raise CheckpointError(
      f"init_from.only={only!r} finds {len(wanted)} variables here and {len(found)} in "
      f"the checkpoint; {len(lacking)} are missing there {lacking[:20]}, {len(extra)} "
      f"not known here {extra[:20]}."
    )
  return restore.nested(found)


def _overlay(base, top):
  if not isinstance(top, Mapping):
    return top
  return {k: _overlay(base[k], top[k]) if k in top else base[k] for k in base}


def place(state, variables: Mapping[str, Any], shardings):
  """The state with other parameters and mutable collections, checked and placed."""
  want, got = flat(state.variables), flat(variables)
  missing, extra = sorted(set(want) - set(got)), sorted(set(got) - set(want))
  odd = [
    f"{k}: {got[k].shape} for {want[k].shape}"
    for k in sorted(set(want) & set(got))
    if got[k].shape != want[k].shape
  ]
  if missing or extra or odd:
    raise CheckpointError(
      f"weights of another architecture: {len(missing)} missing {missing[:20]}, "
      f"{len(extra)} unexpected {extra[:20]}, {len(odd)} mismatched {odd[:20]}."
    )
  variables = dict(variables)
  to = lambda x, old, at: jax.device_put(x.astype(old.dtype), at)
  params = jax.tree.map(
    to, dict(variables.pop("params")), dict(state.params), dict(shardings.params)
  )
  mutable = jax.tree.map(to, variables, dict(state.mutable), dict(shardings.mutable))
  return state.replace(params=params, mutable=mutable)


def path_of(path) -> str:
  """`params/encoder/kernel` of a path of jax.tree_util."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def flat(tree) -> dict[str, Any]:
  """Leaves by their paths."""
  return {path_of(p): x for p, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def digest(variables: Mapping[str, Any]) -> str:
  """Hex sha256 of paths and numbers."""
  code = hashlib.sha256()
  for path, x in sorted(flat(variables).items()):
    code.update(f"{path} {x.dtype} {x.shape}".encode())
    code.update(np.ascontiguousarray(x).view(np.uint8).data)
  return code.hexdigest()


def run_round(run, name: str, given: Mapping[str, Any], state, key):
  """One round: features of the round's input go through its function into the state.

  `given`: every, first, fn ("file:function" of objectives), input (laid over the
  run's), outputs (model outputs and batch keys to collect), method, and the function's
  own keywords.
  """
  from vlp_jax.evaluators import collect

  fn = resolve.function("vlp_jax.objectives", given.get("fn", ""))
  outputs, method = tuple(given.get("outputs", ())), given.get("method")
  batches = given.get("input")
  if isinstance(batches, Mapping):
    full = dict(run.settings.input) | dict(batches)
    batches = sources.evaluation(full, run.tokeniser, run.mesh)
  features = {}
  if batches is not None:
    features = collect.collect(
      run.apply, run.variables(state), batches, outputs, method=method
    )
  own = {k: v for k, v in given.items() if k not in settings_lib.ROUND_KEYS}
  bound = resolve.bind(fn, own, skip=3, what=f"rounds.{name}")
  return bound(state, features, key)
