"""Evaluators on a checkpoint as it is: nothing is trained, no training set is needed.

`run(config, workdir, checkpoint)` takes any model that trained here or was converted:
model and vocabulary are those of the checkpoint's own config.json, unless the config
has its own. Writes results.json, and predictions/<evaluator>.json of evaluators that
have an official form. A config without `tasks` is such a job (configs/mil_nce).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from vlp_jax import (
  evaluate,
  fitting,
  resolve,
  restore,
  sharding,
  snapshot,
  sources,
  workdir,
)
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.metrics import Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """The keys of a config.

  Attributes:
    evals: name -> evaluator and its keywords; mappings are inputs, laid over `input`.
    input: keywords of `data_pipelines.batches`, with `rows`.
    model: laid over the model of the checkpoint; its own where it has a `name`.
    vocab: other than the checkpoint's.
    average: the averaged parameters that the optimiser kept.
  """

  evals: Mapping
  input: Mapping = dataclasses.field(default_factory=dict)
  model: Mapping = dataclasses.field(default_factory=dict)
  vocab: Mapping = dataclasses.field(default_factory=dict)
  mesh: Mapping = dataclasses.field(default_factory=dict)
  average: bool = False
  tasks: Mapping = dataclasses.field(default_factory=dict)  # none, ever

  def inputs(self) -> dict[str, dict[str, Any]]:
    """{place in the config: the whole of an input}."""
    return {
      f"evals.{name}.{k}": dict(self.input) | dict(v)
      for name, entry in self.evals.items()
      for k, v in entry.items()
      if isinstance(v, Mapping)
    }


def run(
  config: Mapping[str, Any],
  at: str | os.PathLike,
  checkpoint: str | os.PathLike,
  *,
  devices: Sequence[Any] | None = None,
) -> dict[str, Result]:
  """{"<evaluator>/<metric>": Result}, also written to the workdir `at`.

  Args:
    checkpoint: a workdir, a checkpoint, or converted weights.
    devices: of the mesh; None for all.
  Raises: UserError for mistakes in config or data, CheckpointError for weights that do
    not fit, or of another vocabulary or tree.
  """
  plain = settings_lib.with_twins(settings_lib.plain(config))
  job = resolve.bind(Job, plain, what="config")()
  if job.tasks or not job.evals:
    raise UserError("a config of evaluators alone has evals, and no tasks.")
  mesh = sharding.mesh(job.mesh, devices)
  for what, given in job.inputs().items():
    settings_lib.check_input(what, given)
    sharding.check_rows(given.get("rows", 0), mesh)
  job = _completed(job, checkpoint)
  vocab, tokeniser = settings_lib.vocabulary(job)
  trees = sources.trees(job)
  restore.same_meaning(checkpoint, snapshot.identities(vocab, None, trees))
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(job.model, inject=inject)
  fitting.check(model, job, trees)
  evaluators = evaluate.build(
    job, state_lib.make_apply(model), mesh, tokeniser, objectives={}, vocab=vocab
  )
  _, abstract, shardings, _ = state_lib.init(model, lambda _: optax.identity(), mesh)
  found = restore.load_variables(checkpoint, average=job.average)
  # Teachers and queues of the training are no variables of the model.
  mine = {k: v for k, v in found.items() if k in abstract.variables}
  state = evaluate.place(abstract, mine, shardings)
  with workdir.lock(at):
    workdir.write_start(at, plain)
    results = evaluate.run_all(evaluators, state.variables)
    workdir.write_results(at, results)
    for name, evaluator in evaluators.items():
      if getattr(evaluator, "predictions", None) and jax.process_index() == 0:
        folder = workdir.root(at) / "predictions"
        folder.mkdir(exist_ok=True)
        evaluator.write(folder / f"{name}.json")
  return results


def _completed(job: Job, checkpoint) -> Job:
  """The job with the checkpoint's own model and vocabulary where it names none."""
  saved = settings_lib.with_twins(settings_lib.plain(workdir.read_config(checkpoint)))
  model = dict(job.model)
  if not model.get("name"):
    model = dict(saved.get("model") or {}) | model
  if not model.get("name"):
    raise CheckpointError(
      f"{checkpoint} has no config.json that names a model. Give a workdir, a "
      "checkpoint, the output of launch.convert, or model=dict(name=...) in the config."
    )
  return dataclasses.replace(
    job, model=model, vocab=job.vocab or saved.get("vocab", {})
  )
