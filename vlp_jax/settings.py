"""A run's config as arguments with defaults, checked whole before anything compiles.

Every name and keyword is resolved here against the signatures that will receive it; no
TensorFlow, no pipeline and no device computation is touched.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from etils import epath

from vlp_jax import resolve
from vlp_jax.errors import UserError
from vlp_jax.vocab import Vocab

TWIN = "synthetic/"  # paths that begin so are generated stand-ins
# The rest is the objective's.
TASK_KEYS = ("objective", "weight", "start", "stop", "input")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpointing:
  """When to save, and what to keep; `best_metric` as `retrieval/t2v_recall@1`."""

  every: int = 500
  keep_last: int = 2
  keep_best: int = 1
  best_metric: str | None = None
  best_mode: str = "max"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The keys of a config, as DESIGN's example shows them.

  Attributes:
    model: name, variant, and fields laid over the variant.
    tasks: name -> objective, weight, start (steps before it is drawn first), stop (the
      step from which it is drawn no more), input (laid over `input`), and keywords of
      the objective.
    optim: keywords of `optim.build`.
    vocab: name and file for `data_pipelines.vocabularies`, or fields of `Vocab`.
    input: keywords of `data_pipelines.batches.build`.
    evals: name -> evaluator and its keywords; mappings are inputs, laid over `input`.
    micro: microbatches of a step, exact. log_every, eval_every: in steps; 0 evaluates
      at the end only.
    after_update: fn "file:function" of objectives, and its keywords.
    rounds: name -> every, fn, and keywords; at checkpoint boundaries, and before the
      first step unless `first`, the step of the first one, is given.
    init_scale: (regular expression, factor) pairs, on the initial values of the
      parameters whose path it finds. N(0, 0.02) is made for the width of BERT; narrow
      models need more.
    compile_ahead: all steps that the sources may ask for are compiled before the first
      one; None does so for runs of `ahead.LONG` steps.
    dropout_generator: of the bits of dropout. "rbg" asks the hardware, which is faster
      on TPUs; other devices or microbatches then draw other masks. The masks of
      objectives are drawn by "threefry2x32" in any case.
    resume: another run's workdir to go on from, whole. init_from: path (and importer)
      of parameters to start from.
  """

  model: Mapping
  tasks: Mapping
  optim: Mapping
  total_steps: int
  vocab: Mapping = dataclasses.field(default_factory=dict)
  input: Mapping = dataclasses.field(default_factory=dict)
  evals: Mapping = dataclasses.field(default_factory=dict)
  mesh: Mapping = dataclasses.field(default_factory=dict)
  checkpoint: Mapping = dataclasses.field(default_factory=dict)
  rounds: Mapping = dataclasses.field(default_factory=dict)
  after_update: Mapping = dataclasses.field(default_factory=dict)
  init_from: Mapping = dataclasses.field(default_factory=dict)
  init_scale: tuple = ()
  resume: str = ""
  seed: int = 0
  micro: int = 1
  log_every: int = 50
  eval_every: int = 0
  compile_ahead: bool | None = None
  dropout_generator: Literal["threefry2x32", "rbg"] = "threefry2x32"
  tensorboard: bool = True

  @property
  def saving(self) -> Checkpointing:
    return resolve.bind(Checkpointing, self.checkpoint, what="checkpoint")()

  def task_input(self, task: str) -> dict[str, Any]:
    return dict(self.input) | dict(self.tasks[task].get("input", {}))

  def spans(self) -> dict[str, tuple[int, int]]:
    """task -> (first step, the step behind its last), from 0."""
    span = lambda start=0, stop=self.total_steps, **_: (start, stop)
    return {name: span(**task) for name, task in self.tasks.items()}

  def hook(self) -> Callable | None:
    """after_update: state -> mutable, with the `init` that makes what it keeps."""
    return _hook(self.after_update)

  def extra(self) -> Callable:
    """variables -> the collections that after_update and the rounds keep."""
    hooks = [self.hook()] if self.after_update else []
    for name, given in self.rounds.items():
      fn = resolve.function("vlp_jax.objectives", given.get("fn", ""))
      own = {k: v for k, v in given.items() if k not in ROUND_KEYS}
      hooks.append(_bound(fn, own, skip=3, what=f"rounds.{name}"))

    def collections(variables):
      found = {}
      for hook in hooks:
        found |= hook.init({**variables, **found}) if hasattr(hook, "init") else {}
      return found

    return collections

  def objective(self, task: str, inject: Mapping[str, Any]) -> Callable:
    given = {k: v for k, v in self.tasks[task].items() if k not in TASK_KEYS}
    fn = resolve.function("vlp_jax.objectives", self.tasks[task]["objective"])
    bound = resolve.bind(fn, given, inject=inject, skip=4, what=f"tasks.{task}")
    return with_hooks(bound)


def _hook(given: Mapping[str, Any]) -> Callable | None:
  if not given:
    return None
  given = dict(given)
  fn = resolve.function("vlp_jax.objectives", given.pop("fn", ""))
  return _bound(fn, given, skip=1, what="after_update")


def _bound(fn, given, *, skip, what):
  bound = resolve.bind(fn, given, skip=skip, what=what)
  if hasattr(fn, "init"):
    bound.init = functools.partial(fn.init, **given)
  return bound


KEYS = tuple(f.name for f in dataclasses.fields(Settings))  # of a config
INIT_KEYS = ("path", "importer", "only", "override")  # the rest is the importer's
# Of a round, the rest being its function's; see `evaluate.run_round`.
ROUND_KEYS = ("every", "first", "fn", "input", "outputs", "method")


def with_hooks(bound: functools.partial) -> functools.partial:
  """An objective's own `prepare` and `value_and_grad`, with the same keywords bound.

  `prepare(batch, key, ...)` changes the whole global batch before it is split into
  microbatches. A hook takes those of the objective's keywords that it names, or, with
  `**`, all.
  """
  bound.global_batch = getattr(bound.func, "global_batch", False)
  for name in ("prepare", "value_and_grad"):
    hook = getattr(bound.func, name, None)
    if hook is not None:
      accepts = inspect.signature(hook).parameters
      every = any(p.kind is p.VAR_KEYWORD for p in accepts.values())
      given = {k: v for k, v in bound.keywords.items() if every or k in accepts}
      setattr(bound, name, functools.partial(hook, **given))
  return bound


def plain(config: Any) -> Any:
  """A config as dicts, tuples and scalars, whatever mapping it came as."""
  if hasattr(config, "to_dict"):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {str(k): plain(v) for k, v in config.items()}
  if isinstance(config, list | tuple):
    return tuple(plain(v) for v in config)
  return config


def with_twins(config: Any) -> Any:
  """The config with paths "synthetic/NAME/..." as places on disk, made if need be."""
  if isinstance(config, Mapping):
    return {k: with_twins(v) for k, v in config.items()}
  if isinstance(config, tuple):
    return tuple(with_twins(v) for v in config)
  if isinstance(config, str) and config.startswith(TWIN):
    return resolve.module("data_pipelines.synthetic", "twins").place(config)
  return config


def load(config: Mapping[str, Any]) -> Settings:
  """Settings of a config. Raises UserError for an unknown or wrongly typed key."""
  return resolve.bind(Settings, plain(config), what="config")()


def check(settings: Settings, *, vocab: Vocab, data_given: bool, workdir=None) -> None:
  """Raises UserError for the first mistake that needs no data and no compile to see.

  Args:
    vocab: of this run, or any other: only signatures are looked at.
    data_given: batches come from the caller, so inputs are not looked for.
  """
  s, saving = settings, settings.saving
  for name in ("total_steps", "log_every", "micro"):
    if getattr(s, name) < 1:
      raise UserError(f"{name} is {getattr(s, name)}; it must be at least 1.")
  if saving.every % s.log_every:
    near = [n * s.log_every for n in {saving.every // s.log_every or 1} | {1}]
    raise UserError(
      f"checkpoint.every={saving.every} must be a multiple of log_every={s.log_every}, "
      f"so that a resumed log has no torn line; e.g. {max(near)}."
    )
  if s.eval_every and s.eval_every % s.log_every:
    raise UserError(
      f"eval_every={s.eval_every} must be a multiple of log_every={s.log_every}."
    )
  if not s.tasks:
    raise UserError("tasks is empty: name at least one, with objective and weight.")
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  resolve.model(s.model, inject=inject)
  from vlp_jax import step as step_lib  # jax waits for what the command sets first
  from vlp_jax.objectives import packing
  from vlp_jax.tasks import schedule

  for name, task in s.tasks.items():
    if not isinstance(task, Mapping) or "objective" not in task:
      raise UserError(f"tasks.{name} has no objective, such as 'masked:mlm'.")
    objective = s.objective(name, inject)
    why = packing.refusal(objective) if _packs(s.task_input(name)) else ""
    if why := why or step_lib.refusal_of_micro(objective, s.micro):
      raise UserError(f"tasks.{name}: {why}.")
  spans = s.spans()
  if not all(isinstance(n, int) and n >= 0 for span in spans.values() for n in span):
    raise UserError(f"tasks: start and stop are numbers of steps, not {spans}.")
  step = schedule.uncovered(spans.values(), s.total_steps)
  if step is not None:
    raise UserError(f"tasks: none takes step {step}; (start, stop) are {spans}.")
  for name, given in s.evals.items():
    evaluator(name, given)
    for task in given.get("tasks", ()):
      if task not in s.tasks:
        raise UserError(
          f"evals.{name}: no task {task!r}.{resolve.nearest(task, s.tasks)}"
        )
  for name, given in s.rounds.items():
    if given.get("every", 0) < 1 or given["every"] % saving.every:
      raise UserError(f"rounds.{name}.every must be a multiple of checkpoint.every.")
  s.extra()
  from vlp_jax import optim

  keys = {k: v for k, v in s.optim.items()}
  fixed = {"total_steps": s.total_steps}
  resolve.bind(optim.build, keys, inject=fixed, skip=1, what="optim")
  if keys.get("warmup", 0) > s.total_steps:
    raise UserError(
      f"optim.warmup={keys['warmup']} exceeds total_steps={s.total_steps}."
    )
  inputs = [(f"tasks.{t}.input", s.task_input(t)) for t in s.tasks]
  inputs += [
    (f"evals.{n}.{k}", dict(s.input) | v)
    for n, given in s.evals.items()
    for k, v in given.items()
    if isinstance(v, Mapping)
  ]
  for what, given in inputs:
    (_check_counts if data_given else check_input)(what, given)


def _packs(given: Mapping[str, Any]) -> bool:
  """Whether an input, or a member of its mixture, has packed rows."""
  inner = given.get("mixture") or ()
  inner = inner.values() if isinstance(inner, Mapping) else inner
  some = [given, *(m for m in inner if isinstance(m, Mapping))]
  return any(m.get("pack") is not None for m in some)


def evaluator(name: str, given: Mapping[str, Any]) -> tuple[Callable, dict, dict]:
  """(class, inputs, other keywords) of an entry of `evals`."""
  given = {k: v for k, v in given.items() if k != "tasks"}
  file = given.pop("evaluator", None)
  if not isinstance(file, str):
    raise UserError(f"evals.{name} has no evaluator, such as 'retrieval'.")
  file, _, kind = file.partition(":")
  found = resolve.module("vlp_jax.evaluators", file)
  cls = getattr(found, kind or "Evaluator", None)
  if cls is None:
    raise UserError(f"evals.{name}: {file} has no {kind or 'Evaluator'!r}.")
  inputs = {k: v for k, v in given.items() if isinstance(v, Mapping)}
  others = {k: v for k, v in given.items() if k not in inputs}
  resolve.bind(
    cls,
    others | dict.fromkeys(inputs),
    inject={"objectives": {}, "vocab": stand_in(), "tokeniser": None},
    skip=["apply"],
    what=f"evals.{name}",
  )
  return cls, inputs, others


def check_input(what: str, given: Mapping[str, Any]) -> None:
  """The keywords are known and the prepared data exist; no TensorFlow is imported."""
  pipelines = resolve.module("data_pipelines", "batches")
  pipelines.check(given, what)
  _check_counts(what, given)
  if given.get("mixture"):
    mixture = resolve.module("data_pipelines", "mixture")
    for name, (member, _) in mixture.members(given, what).items():
      check_input(f"{what}.mixture.{name}", member)
    return
  if given["dir"].startswith(TWIN):
    resolve.module("data_pipelines.synthetic", "twins").name_of(given["dir"])
    return
  info = epath.Path(given["dir"]) / "dataset_info.json"
  if not info.exists():
    raise UserError(
      f"{what}.dir={given['dir']} holds no dataset_info.json. Make it with "
      "`python -m data_pipelines.prepare DATASET --source PATH --out DIR`."
    )
  splits = json.loads(info.read_text()).get("splits", {})
  if given.get("split") not in splits:
    hint = resolve.nearest(given.get("split"), splits)
    raise UserError(f"{what}.split {given.get('split')!r} is not in {info}.{hint}")


def _check_counts(what: str, given: Mapping[str, Any]) -> None:
  for key in ("rows", "tokens"):
    if isinstance(given.get(key), int) and given[key] < 1:
      raise UserError(f"{what}.{key}={given[key]}; it must be at least 1.")


@functools.cache
def stand_in() -> Vocab:
  return Vocab(size=8, pad_id=0, cls_id=1, sep_id=2, mask_id=3, valid_range=(4, 8))


def vocabulary(settings: Settings) -> tuple[Vocab, Any]:
  """(numbers, tokeniser or None) of the run's vocabulary.

  A mapping with `name` is built by `data_pipelines.vocabularies`; one without holds the
  fields of `Vocab` itself, for runs on batches in memory.
  """
  given = dict(settings.vocab)
  if not given:
    return stand_in(), None
  if "name" not in given:
    return resolve.bind(Vocab, given, what="vocab")(), None
  tokeniser = resolve.module("data_pipelines", "vocabularies").build(given)
  return tokeniser.spec, tokeniser
