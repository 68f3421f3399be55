"""A probe job: frozen features of a checkpoint, and classifiers of them.

`run(config, workdir, checkpoint)` takes any model that trained here or was converted:
the model is the one in the checkpoint's own config.json. Features are extracted once,
chunk by chunk, into `workdir/features`, under an identity made of weights, data and
protocol: what was stopped goes on, and what differs in the classifier alone reuses
them. `checkpoint` may also be a directory of feature shards (launch.extract); then no
model is run. Writes results.json, predictions/<evaluator>.jsonl and probe.json, the
identity of the job: with the same one nothing is done again.
"""

import dataclasses
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from etils import epath

from vlp_jax import evaluate, feature_store, resolve, restore, sharding, workdir
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.evaluators import collect
from vlp_jax.layers import logmel
from vlp_jax.metrics import Result

STREAMS = ("audio", "video", "image")
KEPT = ("group_id", "example_id", "label")  # of a batch, beside label_<name>
NAMES = ("action", "colour", "shape", "fold", "speaker", "group")
PASSES = "passes"  # key of an input: see data_pipelines/passes.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """The keys of a probe's config.

  Attributes:
    stream: what the features are of: audio, video, or image (the first frame).
    data: directory of the prepared data; `dir` of an input is relative to it.
    input: keywords of `data_pipelines.batches`, with `rows`; inherit: those of them
      that come from the input that the checkpoint was trained on, where it has them.
    evals: name -> evaluator and its keywords; mappings are inputs, laid over `input`.
      An input with `passes` n > 0 takes the training form of the task n times.
    method, output: of the model; by default encode_<stream> if there is one, and
      <stream>_features.
    model: laid over the model of the checkpoint; its own where it has a `name`.
    average: the averaged parameters that the optimiser kept.
    expected: published numbers, for the reader; not used.
  """

  stream: str
  data: str
  input: Mapping
  evals: Mapping
  inherit: tuple = ()
  method: str = ""
  output: str = ""
  model: Mapping = dataclasses.field(default_factory=dict)
  vocab: Mapping = dataclasses.field(default_factory=dict)
  mesh: Mapping = dataclasses.field(default_factory=dict)
  average: bool = False
  seed: int = 0

  @property
  def features(self) -> str:
    return self.output or f"{self.stream}_features"


class Outcome(NamedTuple):
  """Results by name; `done` tells that all was there already."""

  results: dict[str, Result]
  done: bool


def run(
  config: Mapping[str, Any],
  at: str | os.PathLike,
  checkpoint: str | os.PathLike,
  *,
  devices: Sequence[Any] | None = None,
  quiet: bool = False,
  say: Callable[[str], None] = lambda text: None,
) -> Outcome:
  """Runs a job in the workdir `at`, or finishes one.

  Args:
    checkpoint: a workdir, a checkpoint, converted weights, or feature shards.
    devices: of the mesh; None for all. quiet: no progress bars. say: told what is done.
  Raises: UserError for mistakes in config or data, CheckpointError for weights that do
    not fit.
  """
  plain = settings_lib.with_twins(settings_lib.plain(config))
  job = resolve.bind(Job, plain, what="config")()
  if job.stream not in STREAMS:
    raise UserError(f"stream {job.stream!r}.{resolve.nearest(job.stream, STREAMS)}")
  with workdir.lock(at):
    return _run(job, plain, workdir.root(at), checkpoint, devices, quiet, say)


def _run(job, plain, at, checkpoint, devices, quiet, say) -> Outcome:
  shards = (workdir.root(checkpoint) / "dataset_info.json").exists()
  kind = _Shards if shards else _Weights
  source = kind(job, checkpoint, devices, at, quiet)
  evaluators, stores = {}, {}
  for name, given in job.evals.items():
    cls, inputs, others = settings_lib.evaluator(name, given)
    mine = {k: source.store(v, f"evals.{name}.{k}") for k, v in inputs.items()}
    stores |= {s.name: s for s in mine.values()}
    own = {"output": job.features, "method": None}
    make = resolve.bind(cls, own | others | mine, skip=["apply"], what=f"evals.{name}")
    evaluators[name] = make(_given)
  about = dict(sets=sorted(stores), evals=plain["evals"], output=job.features)
  told = {"identity": feature_store.identity(about), "source": source.about}
  before = workdir.read_results(at)
  if workdir.read_json(at / "probe.json") == told and before:
    return Outcome(before, True)
  if jax.process_index() == 0:
    (at / "probe.json").unlink(missing_ok=True)
  workdir.write_start(at, plain)
  source.fill()
  for evaluator in evaluators.values():
    if hasattr(evaluator, "say"):
      evaluator.say = say
  try:
    results = evaluate.run_all(evaluators, {})
  except (ValueError, KeyError) as error:  # folds that straddle, labels that lack
    raise UserError(" ".join(str(error.args[0]).split())) from error
  workdir.write_results(at, results)
  if jax.process_index() == 0:
    for name, evaluator in evaluators.items():
      _write_predictions(at, name, getattr(evaluator, "predictions_made", ()))
    workdir.write_text(at / "probe.json", workdir.dumps(told))
  return Outcome(results, False)


def _given(variables, batch, *, rng=None, train=False, method=None):
  """The apply of evaluators whose batches hold the features already."""
  del variables, rng, train, method
  return batch, {}


def _write_predictions(at, name, made):
  if made:
    (at / "predictions").mkdir(exist_ok=True)
    text = "".join(f"{json.dumps(one)}\n" for one in made)
    workdir.write_text(at / "predictions" / f"{name}.jsonl", text)


class _Shards:
  """Feature shards: read as they are."""

  def __init__(self, job, path, devices, at, quiet):
    del devices, at
    self.job, self.path, self.quiet = job, os.fspath(path), quiet
    info = json.loads((epath.Path(path) / "dataset_info.json").read_text())
    self.about = {"features": info["fingerprint"]}
    self.held = {}

  def store(self, given, what) -> feature_store.Held:
    given = dict(self.job.input) | dict(given)
    if "split" not in given:
      raise UserError(f"{what}.split is missing.")
    keys = ("split", "where", "num_classes")
    mine = {k: given[k] for k in keys if given.get(k)}
    about = self.about | mine
    name = feature_store.identity(about)
    if name not in self.held:
      load = importlib.import_module("data_pipelines.feature_rows").load
      rows = load(self.path, quiet=self.quiet, **mine)
      rows[self.job.features] = rows.pop("features")
      self.held[name] = feature_store.Held(about, rows)
    return self.held[name]

  def fill(self) -> None:
    """Nothing is to be made."""


class _Weights:
  """A model with the weights of a checkpoint."""

  def __init__(self, job, path, devices, at, quiet):
    self.job, self.quiet, self.root = job, quiet, at / "features"
    self.config = settings_lib.with_twins(workdir.read_config(path))
    self.mesh = sharding.mesh(job.mesh, devices)
    model = dict(self.config.get("model", {}))
    model = dict(job.model) if job.model.get("name") else model | dict(job.model)
    if not model:
      raise CheckpointError(
        f"{path} has no config.json that names a model. Give a workdir, a checkpoint, "
        "the output of launch.convert, or add model=dict(name=...) to the config."
      )
    vocab, self.tokeniser = self._vocabulary()
    inject = {"vocab": vocab, "vocab_size": vocab.size}
    self.module = resolve.model(model, inject=inject)
    found = restore.load_variables(path, average=job.average)
    self.about = {"weights": evaluate.digest(found), "model": model}
    self.variables, self.missing = self._placed(found)
    name = job.method or f"encode_{job.stream}"
    self.method = name if hasattr(self.module, name) else None
    if job.method and self.method is None:
      raise UserError(
        f"method {job.method!r}: {type(self.module).__module__} has none."
      )
    kept = (*KEPT, *(f"label_{k}" for k in {*NAMES, *self._labels()}))
    self.forward = collect.Forward(
      state_lib.make_apply(self.module),
      (job.features,),
      method=self.method,
      optional=kept,
    )
    self.stores = {}

  def _labels(self):
    """Names of labels that evaluators ask for."""
    return {k for given in self.job.evals.values() for k in given.get("labels", ())}

  def _vocabulary(self):
    """That of the checkpoint; a stand-in where its file is missing: no text is read."""
    given = self.job.vocab or self.config.get("vocab", {})
    here = dataclasses.replace(self.job, vocab=given)
    try:
      return settings_lib.vocabulary(here)
    except (UserError, OSError):
      if self.job.vocab:
        raise
      return settings_lib.stand_in(), None

  def _placed(self, found):
    """(variables on the mesh, paths of the model that the checkpoint lacks)."""
    _, abstract, shardings, _ = state_lib.init(
      self.module, lambda _: optax.identity(), self.mesh
    )
    flat = evaluate.flat
    want = flat(abstract.variables)
    at = flat({"params": shardings.params} | dict(shardings.mutable))
    everywhere = sharding.replicated(self.mesh)
    # Teachers and queues of the training are no variables of the model.
    mine = {k: v for k, v in found.items() if k in abstract.variables}

    def put(path, x):
      name = evaluate.path_of(path)
      fits = name in want and want[name].shape == x.shape
      return jax.device_put(x, at[name] if fits else everywhere)

    placed = jax.tree_util.tree_map_with_path(put, mine)
    return placed, sorted(set(want) - set(flat(mine)))

  def _input(self, given, what) -> tuple[dict[str, Any], int]:
    """(input of the pipeline, passes)."""
    own = self.config.get("input", {})
    out = {k: own[k] for k in self.job.inherit if k in own}
    out |= dict(self.job.input) | dict(given)
    passes = out.pop(PASSES, 0)
    out["dir"] = os.path.join(self.job.data, out.get("dir", ""))
    for name in ("windows", "crops") if passes else ():  # what only evaluations have
      out.pop(name, None)
    settings_lib.check_input(what, out)
    self._check_sound(out, what)
    return out, passes

  def _check_sound(self, given, what):
    """Raises UserError for sound of another sampling rate than the model's."""
    if self.job.stream != "audio" or not hasattr(self.module, "front_end"):
      return
    wanted = logmel.front_end(self.module.front_end).rate_hz
    info = json.loads((epath.Path(given["dir"]) / "dataset_info.json").read_text())
    stored = info.get("settings", {}).get("audio_hz", wanted)
    if stored != wanted:
      raise UserError(
        f"{what}: {given['dir']} stores sound at {stored} Hz, the front end "
        f"{self.module.front_end!r} of the model wants {wanted}. Prepare it again with "
        f"--audio_hz {wanted}."
      )

  def store(self, given, what) -> feature_store.Store:
    given, passes = self._input(given, what)
    sharding.check_rows(given.get("rows", 0), self.mesh)
    make = importlib.import_module("data_pipelines.passes").Passes
    hosts = dict(host=jax.process_index(), num_hosts=jax.process_count())
    batches = make(
      given, vocab=self.tokeniser, passes=passes, seed=self.job.seed, **hosts
    )
    about = dict(self.about, data=batches.fingerprint, passes=passes)
    about |= dict(input={k: v for k, v in given.items() if k != "dir"})
    about |= dict(method=self.method, output=self.job.features, seed=self.job.seed)
    sizes = dict(num_batches=batches.num_batches, rows=batches.rows)
    store = feature_store.Store(self.root, about, **sizes)
    self.stores[store.name] = (store, batches, what)
    return store

  def fill(self) -> None:
    """Extracts what is missing."""
    bar = importlib.import_module("data_pipelines.progress").bar
    for store, batches, what in self.stores.values():
      label = f"features of {what.removeprefix('evals.')}"
      with bar(label, store.num_batches, quiet=self.quiet) as advance:
        step = lambda a, b, read=batches: self._features(read(a, b), advance, a)
        store.fill(step, advance)

  def _features(self, batches, advance, first) -> dict[str, np.ndarray]:
    try:
      return self.forward(self.variables, self._put(batches, advance, first))
    except KeyError as error:
      raise UserError(f"output {self.job.features!r}: {error.args[0]}") from None
    except Exception as error:
      if type(error).__module__.startswith("flax"):
        raise CheckpointError(
          f"the weights lack {len(self.missing)} of the model's variables, as "
          f"{self.missing[:20]}, and {self.method or '__call__'} needs some of them."
        ) from error
      raise

  def _put(self, batches, advance, first) -> Iterator:
    for k, batch in enumerate(batches, first):
      if self.job.stream == "image" and "video_frames" in batch:
        frames = batch.pop("video_frames")
        batch["image_pixels"], mask = frames[:, 0], batch.pop("video_mask")
        batch["image_mask"] = mask[:, 0]
        batch.pop("video_times", None)
      advance(k)
      yield sharding.put(batch, self.mesh)
