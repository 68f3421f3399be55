"""A config made concrete without data, weights or devices.

What `train.Run` is for training, `Job` is for asking what training would cost: model,
objectives, abstract state with its shardings on a mesh of any devices, batch shapes.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax import optim, resolve, sharding
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.costs import families, inputs
from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean
from vlp_jax.tasks import schedule


@dataclasses.dataclass(frozen=True)
class Task:
  """One task: its share of the steps, its objective, shapes of its global batches."""

  name: str
  share: float
  objective: Callable
  batch: dict[str, jax.ShapeDtypeStruct]

  @property
  def rows(self) -> int:
    return self.batch["example_id"].shape[0]

  @property
  def place(self) -> families.Objective:
    return families.Objective.of(self.objective)


@dataclasses.dataclass(frozen=True)
class Job:
  """See the header.

  Attributes:
    abstract: shapes, dtypes and shardings of a TrainState.
    notes: what was taken for want of something better, a sentence each.
  """

  settings: settings_lib.Settings
  model: Any
  mesh: jax.sharding.Mesh
  abstract: state_lib.TrainState
  tx: Any
  tasks: dict[str, Task]
  notes: tuple[str, ...] = ()

  @property
  def shards(self) -> int:
    return sharding.batch_shards(self.mesh)

  @property
  def shardings(self) -> Any:
    return jax.tree.map(lambda x: x.sharding, self.abstract)

  def frozen(self) -> set[str]:
    """Paths of parameters that the optimizer never moves."""
    groups = self.settings.optim.get("groups", ((r".*", {}),))
    groups = optim.assign(self.abstract.params, groups)
    return {path for path, keys in groups.items() if keys.get("freeze")}

  def loss(self, task: str) -> tuple[Callable, tuple]:
    """(loss of a task's batch, its arguments as shapes), for its FLOPs."""
    one, apply = self.tasks[task], self._apply(self.model)

    def loss(params, rest, batch, key):
      if (prepare := getattr(one.objective, "prepare", None)) is not None:
        batch = prepare(batch, key)
      terms, _, _ = one.objective(apply, rest | {"params": params}, batch, key)
      return sum(t.coef * Mean(t.total, t.weight).value for t in terms.values())

    plain = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    variables = jax.tree.map(plain, (self.abstract.params, self.abstract.mutable))
    return loss, (*variables, one.batch, jax.eval_shape(lambda: jax.random.key(0)))

  def _apply(self, model):
    return state_lib.make_apply(model, generator=self.settings.dropout_generator)

  def lower(self, task: str, *, model: Any = None) -> jax.stages.Lowered:
    """The task's real training step, lowered for the devices of the mesh."""
    one, s = self.tasks[task], self.settings
    step = step_lib.build(
      one.objective,
      apply=self._apply(self.model if model is None else model),
      tx=self.tx,
      mesh=self.mesh,
      shardings=self.shardings,
      micro=s.micro,
      after_update=s.hook(),
      name=task,
    )
    over = sharding.batch_sharding(self.mesh)
    at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=over)
    key = jax.eval_shape(lambda: jax.random.key(0))
    everywhere = sharding.replicated(self.mesh)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    return step.lower(self.abstract, {k: at(x) for k, x in one.batch.items()}, key)


def build(
  config: Mapping[str, Any],
  devices: Sequence[Any],
  *,
  sizes: Mapping[str, int] | None = None,
  vocab_size: int | None = None,
  task: str | None = None,
  fewer: bool = False,
) -> Job:
  """The job of a config on devices, real or `chips.devices`.

  Where members of a mixture give batches of several shapes, each is a task of its own,
  called TASK/MEMBER.

  Args:
    sizes: see `inputs.batch`.
    task: only this one, or this member of its mixture; all of them when None.
    fewer: whether to take the first so many devices where a batch has fewer rows than
      there are shards, and say so in `notes`.
  Raises: UserError for a mesh, a batch or a name that does not fit.
  """
  s = settings_lib.load(config)
  settings_lib.check(s, vocab=settings_lib.stand_in(), data_given=True)
  vocab, note = inputs.vocabulary(s, vocab_size)
  notes = [note] if note else []
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(s.model, inject=inject)
  make = functools.partial(_tasks, s, model, inject, task, sizes)
  mesh = sharding.mesh(s.mesh, devices)
  shards = sharding.batch_shards(mesh) * s.micro
  rows = shards
  if fewer:  # a budget of tokens may hold too few rows for so many shards
    rows = min(t.rows for t in make(s.micro).values())
  if rows >= shards:
    tasks = make(shards)
  else:
    mesh = _smaller(s, devices, rows)
    tasks = make(sharding.batch_shards(mesh) * s.micro)  # budgets of tokens follow
    notes.append(
      f"{rows} rows use {mesh.size} of the {len(devices)} chips, for which everything "
      "here is; a larger batch is another recipe (--rows)"
    )
  for one in tasks.values():
    sharding.check_rows(one.rows, mesh, s.micro)
  if s.rounds:
    notes.append(f"rounds ({', '.join(s.rounds)}) are in no time given here")
  abstract, tx = _state(
    model,
    lambda p: optim.build(p, **({"total_steps": s.total_steps} | dict(s.optim))),
    mesh,
    extra=s.extra(),
    scale=dict(s.init_scale),
  )
  return Job(s, model, mesh, abstract, tx, tasks, tuple(notes))


def _shares(s: settings_lib.Settings) -> dict[str, float]:
  """{task: share of the run's steps}, by weights, and by first and last steps."""
  weights = {t: float(v.get("weight", 1.0)) for t, v in s.tasks.items()}
  spans, out = s.spans(), dict.fromkeys(weights, 0.0)
  cuts = {0, s.total_steps, *itertools.chain(*spans.values())}
  cuts = sorted(c for c in cuts if c <= s.total_steps)
  for a, b in itertools.pairwise(cuts):
    drawn = schedule.open_at(weights, spans, a)
    for t, weight in drawn.items():
      out[t] += weight / sum(drawn.values()) * (b - a) / s.total_steps
  return out


def _tasks(s, model, inject, task, sizes, shards) -> dict[str, Task]:
  """Tasks, or that one, with shapes of batches for so many shards and microbatches."""
  asked, out = task and task.partition("/")[0], {}
  if task is not None and asked not in s.tasks:
    raise UserError(f"--task {task!r}.{resolve.nearest(asked, s.tasks)}")
  shares = _shares(s) if task is None else {asked: 1.0}
  for name, share in shares.items():
    objective, found = s.objective(name, inject), {}
    for member, (given, part) in inputs.members(s.task_input(name)).items():
      shapes = inputs.batch(model, given, shards=shards, sizes=sizes)
      found[f"{name}/{member}"] = Task(name, share * part, objective, shapes)
    alike = next(iter(found.values()))
    if all(one.batch == alike.batch for one in found.values()):
      found = {name: dataclasses.replace(alike, share=share)}
    out |= found
  if task in (None, asked):
    return out
  if task not in out:
    raise UserError(f"--task {task!r}.{resolve.nearest(task, out)}")
  return {task: dataclasses.replace(out[task], share=1.0)}


def _smaller(s, devices, rows) -> jax.sharding.Mesh:
  """The mesh of most devices over which so many rows divide."""
  for count in range(min(len(devices) - 1, rows), 0, -1):
    try:
      mesh = sharding.mesh(s.mesh, devices[:count])
      sharding.check_rows(rows, mesh, s.micro)
    except UserError:
      continue
    return mesh
  raise UserError(
    f"a batch of {rows} rows divides by no mesh {dict(s.mesh)} with micro={s.micro}."
  )


def _state(model, tx_of, mesh, *, extra, scale):
  """(abstract TrainState sharded on any mesh, optimizer).

  `state.init` runs small computations on the mesh's devices; here nothing can run. It
  is called on one CPU device, and hands over the boxes with the axis names.
  """
  seen = {}

  def keep(variables):
    seen["variables"] = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables
    )
    seen["extra"] = extra(variables) if extra else {}
    return seen["extra"]

  cpu = sharding.mesh({}, jax.local_devices(backend="cpu")[:1])
  _, like, _, tx = state_lib.init(model, tx_of, cpu, extra=keep, scale=scale)

  def state_of(variables):
    mutable = variables | (dict(extra(variables)) if extra else {})
    params, zero = mutable.pop("params"), jnp.zeros((), jnp.int32)
    return state_lib.TrainState(zero, params, mutable, tx.init(params), zero, zero)

  boxed = jax.eval_shape(state_of, seen["variables"])
  found = sharding.state_shardings(boxed, mesh)
  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return jax.tree.map(place, like, found), tx
