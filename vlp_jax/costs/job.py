"""A config made concrete without data, weights or devices.

What `train.Run` is for training, `Job` is for asking what training would cost: model,
objectives, abstract state with its shardings on a mesh of any devices, batch shapes.
"""

import dataclasses
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
  """See the header; `abstract` has shapes, dtypes and shardings of a TrainState."""

  settings: settings_lib.Settings
  model: Any
  mesh: jax.sharding.Mesh
  abstract: state_lib.TrainState
  tx: Any
  tasks: dict[str, Task]

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

  def lower(self, task: str, *, model: Any = None) -> jax.stages.Lowered:
    """The task's real training step, lowered for the devices of the mesh."""
    one, s = self.tasks[task], self.settings
    step = step_lib.build(
      one.objective,
      apply=state_lib.make_apply(self.model if model is None else model),
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
) -> Job:
  """The job of a config on devices, real or `chips.devices`.

  Args:
    sizes: see `inputs.batch`.
    task: only this one; all of them when None.
  Raises: UserError for a mesh, a batch or a name that does not fit.
  """
  s = settings_lib.load(config)
  settings_lib.check(s, vocab=settings_lib.stand_in(), data_given=True)
  if task is not None and task not in s.tasks:
    raise UserError(f"--task {task!r}.{resolve.nearest(task, s.tasks)}")
  mesh = sharding.mesh(s.mesh, devices)
  vocab = inputs.vocabulary(s, vocab_size)
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(s.model, inject=inject)
  abstract, tx = _state(
    model,
    lambda p: optim.build(p, **({"total_steps": s.total_steps} | dict(s.optim))),
    mesh,
    extra=s.extra(),
    scale=dict(s.init_scale),
  )
  weights = {t: float(v.get("weight", 1.0)) for t, v in s.tasks.items()}
  tasks, shards = {}, sharding.batch_shards(mesh) * s.micro
  for name in s.tasks if task is None else (task,):
    given = s.task_input(name)
    shapes = inputs.batch(model, given, shards=shards, sizes=sizes)
    one = Task(
      name, weights[name] / sum(weights.values()), s.objective(name, inject), shapes
    )
    sharding.check_rows(one.rows, mesh, s.micro)
    tasks[name] = one if task is None else dataclasses.replace(one, share=1.0)
  return Job(s, model, mesh, abstract, tx, tasks)


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
