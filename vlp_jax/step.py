"""One training step: exact accumulation, non-finite policy, after_update.

loss = sum over terms of coef * total / weight, with the weights summed over the whole
effective batch first: N microbatches give what one batch gives. Statistics of BatchNorm
are per microbatch. Each data shard keeps its own sum of gradients to the end, so a step
has one gradient all-reduce however many microbatches it has.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import PartitionSpec

from vlp_jax import optim, sharding
from vlp_jax.errors import NumericError, UserError, of_config
from vlp_jax.metrics import Mean
from vlp_jax.objectives import cached_contrastive, packing
from vlp_jax.state import TrainState

BAD_IN_ROW = 10  # non-finite steps without a break that end a run


def _only_means(aux):
  return {k: m for k, m in aux.items() if isinstance(m, Mean)}


def _loss_fn(params, rest, batch, key, weight, *, apply, objective):
  """Loss of some rows given the weights of all; (loss, (means, new rest))."""
  terms, aux, new = objective(apply, rest | {"params": params}, batch, key)
  loss = jnp.zeros(())
  for k, t in terms.items():
    whole = t.weight if weight is None else weight[k]
    loss = loss + t.coef * Mean(t.total, whole).value
  means = {k: Mean(t.total, t.weight) for k, t in terms.items()}
  return loss, (_only_means(aux) | means, rest | new)


def value_and_grad(
  apply, params, rest, batch, key, *, objective, micro=1, shards=1
) -> tuple[Any, Any, jax.Array, dict[str, Mean]]:
  """Gradients, new mutable, loss and means of a global batch.

  Args:
    rest: mutable collections.
    micro: microbatches; rows must divide by micro * shards.
    shards: parts of the batch over the mesh; each sums its own gradients.
  """
  prepare = getattr(objective, "prepare", None)
  if prepare is not None:  # pairing inside the whole batch: negatives of ITM
    batch = prepare(batch, key)
  loss_fn = functools.partial(_loss_fn, apply=apply, objective=objective)
  if micro == 1:
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (means, rest)), grads = grad_fn(params, rest, batch, key, None)
    return grads, rest, loss, means
  rows, shards = _split(batch, micro, 1 if rest else shards)

  def weigh(one):  # the forward pass is dead code here: the compiler drops it
    terms = objective(apply, rest | {"params": params}, one, key)[0]
    return {k: t.weight for k, t in terms.items()}

  def grads_of(rest, weight, one):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (means, rest)), grads = grad_fn(params, rest, one, key, weight)
    return loss, means, rest, grads

  if shards > 1:
    weigh = _over_shards(weigh)
    grads_of = _over_shards(grads_of, in_axes=(None, None, 0), out_axes=(0, 0, None, 0))
    free = PartitionSpec.UNCONSTRAINED
    split = lambda x: jax.lax.with_sharding_constraint(
      x, PartitionSpec(sharding.BATCH_AXES, *[free] * (x.ndim - 1))
    )
    start = lambda p: split(jnp.zeros((shards, *p.shape), p.dtype))
  else:
    split, start = lambda x: x, jnp.zeros_like

  def body(carry, one):
    grads, rest = carry
    loss, means, rest, more = grads_of(rest, weight, one)
    grads = jax.tree.map(lambda a, b: split(a + b), grads, more)
    return (grads, rest), (loss, means)

  with nn.logical_axis_rules(sharding.rules(inside_shards=shards > 1)):
    weight = jax.tree.map(jnp.sum, jax.lax.map(weigh, rows))
    carry = jax.tree.map(start, params), rest
    (grads, rest), out = jax.lax.scan(body, carry, rows)
  if shards > 1:
    grads = jax.tree.map(lambda g: g.sum(0), grads)
  return grads, rest, *jax.tree.map(jnp.sum, out)


def _split(batch, micro, shards):
  """Microbatches [n, s, b, ...] of every shard, or [n, b, ...] for one shard.

  Batch statistics run from one microbatch to the next, over all shards: where there are
  any, the caller asks for one.
  """
  rows = {
    k: rearrange(x, "(s n b) ... -> n s b ...", n=micro, s=shards)
    for k, x in batch.items()
  }
  return rows if shards > 1 else {k: x[:, 0] for k, x in rows.items()}, shards


_over_shards = functools.partial(jax.vmap, spmd_axis_name=sharding.BATCH_AXES)


class Pieces(NamedTuple):
  """How a step splits a batch, for objectives that bring their own `value_and_grad`.

  Both methods split alike, so an `apply` seeded by the first example of its rows has
  the same dropout in both.
  """

  micro: int
  shards: int

  def value_and_grad(self, apply, params, rest, batch, key, *, objective):
    """The plain one, of an objective that is a sum over rows."""
    given = dict(objective=objective, micro=self.micro, shards=self.shards)
    return value_and_grad(apply, params, rest, batch, key, **given)

  def forward(self, fn: Callable, rest, batch) -> Any:
    """`fn(rest, rows) -> (arrays, new rest)` piece by piece: arrays of all rows.

    Scalars are taken from the first piece.
    """
    if self.micro == 1:
      return fn(rest, batch)[0]
    rows, shards = _split(batch, self.micro, 1 if rest else self.shards)
    if shards > 1:
      fn = _over_shards(fn, in_axes=(None, 0), out_axes=(0, None))
    with nn.logical_axis_rules(sharding.rules(inside_shards=shards > 1)):
      out = jax.lax.scan(lambda rest, one: fn(rest, one)[::-1], rest, rows)[1]
    if shards == 1:
      out = jax.tree.map(lambda x: x[:, None], out)
    join = lambda x: rearrange(x, "n s b ... -> (s n b) ...") if x.ndim > 2 else x[0, 0]
    return jax.tree.map(join, out)


def train_step(
  state: TrainState, batch, key, *, grad_fn, apply, tx, after_update=None
) -> tuple[TrainState, dict[str, Mean]]:
  """The next state, and sums for the log.

  A step whose loss or gradient is not finite changes neither parameters nor optimizer
  nor mutable state; it is counted. After BAD_IN_ROW of them nothing changes any more,
  so that the loop, which looks a little later, finds the state as it was.
  """
  key = jax.random.fold_in(key, state.step)
  grads, rest, loss, means = grad_fn(apply, state.params, state.mutable, batch, key)
  norm = optax.tree.norm(grads)
  ok = jnp.isfinite(loss) & jnp.isfinite(norm) & (state.bad_in_row < BAD_IN_ROW)
  update = optax.with_extra_args_support(tx).update
  updates, opt_state = update(grads, state.opt_state, state.params, ok=ok)
  params = optax.apply_updates(state.params, updates)
  new = state.replace(params=params, opt_state=opt_state, mutable=rest)
  if after_update is not None:
    new = new.replace(mutable=after_update(new))
  is_own = lambda x: isinstance(x, optim.OptState)  # has chosen already
  choose = lambda a, b: a if is_own(a) else jnp.where(ok, a, b)
  new = jax.tree.map(choose, new, state, is_leaf=is_own)
  one = jnp.ones(())
  means = means | {"loss": Mean(loss, one), "grad_norm": Mean(norm, one)}
  means = jax.tree.map(lambda x: jnp.where(ok, x, 0.0), means)
  count = (~ok).astype(jnp.int32)
  new = new.replace(
    step=state.step + 1,
    skipped=state.skipped + count,
    bad_in_row=jnp.where(ok, 0, state.bad_in_row + 1),
  )
  return new, means


def refusal_of_micro(objective: Callable, micro: int) -> str:
  """Why a batch may not be split into so many microbatches; "" if it may."""
  own = getattr(objective, "value_and_grad", None) is not None
  if micro == 1 or own or not getattr(objective, "global_batch", False):
    return ""
  cached = cached_contrastive.twin(objective)
  return (
    "its objective compares the rows of a batch with each other: "
    f"micro={micro} would change the loss. Set micro=1"
    + (f', or objective="{cached}"' if cached else "")
  )


def build(
  objective: Callable,
  *,
  apply: Callable,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  shardings: TrainState,
  micro: int = 1,
  after_update: Callable | None = None,
  name: str = "task",
) -> Callable:
  """A compiled step `(state, batch, key) -> (state, means)` for one task.

  It compiles for each shape of batch as it comes, or takes what its `keep` was given.

  An objective may bring its own `value_and_grad(apply, params, rest, batch, key)`; of
  micro, the number of microbatches, and pieces (`Pieces`) it gets what it names.
  Raises: UserError where rows interact (`global_batch`) and micro > 1; the step, when
    it is traced, for what model or objective refuse.
  """
  own = getattr(objective, "value_and_grad", None)
  shards = sharding.batch_shards(mesh)
  if own is not None:
    given, accepts = {"micro": micro}, inspect.signature(own).parameters
    given["pieces"] = Pieces(micro, shards)
    grad_fn = functools.partial(own, **{k: given[k] for k in given if k in accepts})
  elif why := refusal_of_micro(objective, micro):
    raise UserError(f"tasks.{name}: {why}.")
  else:
    grad_fn = functools.partial(
      value_and_grad, objective=objective, micro=micro, shards=shards
    )
  fn = functools.partial(
    train_step, grad_fn=grad_fn, apply=apply, tx=tx, after_update=after_update
  )

  unpacked = packing.refusal(objective)

  def traced(state, batch, key):
    if unpacked and "example_id" in batch and packing.is_packed(batch):
      raise UserError(f"tasks.{name}: {unpacked}.")
    with nn.logical_axis_rules(sharding.rules()), of_config(f"tasks.{name}"):
      return fn(state, batch, key)

  jitted = jax.jit(
    traced,
    donate_argnums=0,
    out_shardings=(shardings, sharding.replicated(mesh)),
  )

  ready = {}  # programs that were compiled before they are needed

  def keep(batch, compiled):
    """Steps on batches of these shapes run this program."""
    ready[_shape(batch)] = compiled

  def step(state, batch, key):
    run = ready.get(_shape(batch), jitted) if ready else jitted
    with sharding.context(mesh):
      return run(state, batch, key)

  def lower(*args):
    with sharding.context(mesh):
      return jitted.lower(*args)

  def eval_shape(*args):
    with sharding.context(mesh):
      return jitted.eval_shape(*args)

  def diagnose(state, batch, key):
    """Names of the terms and of the parameters whose gradient is not finite."""
    with sharding.context(mesh):
      at = jax.random.fold_in(key, state.step)
      rest = state.mutable
      grads, _, _, means = jax.jit(functools.partial(grad_fn, apply))(
        state.params, rest, batch, at
      )
    terms = [k for k, m in means.items() if not jnp.isfinite(m.total)]
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return terms, [name(p) for p, g in flat if not jnp.isfinite(g).all()]

  step.lower, step.eval_shape, step.diagnose = lower, eval_shape, diagnose
  step.keep = keep
  return step


def not_finite(step, state, batch, key, n: int, task: str) -> NumericError:
  """What to raise after `BAD_IN_ROW` steps of `build`, the last on that batch."""
  terms, modules = step.diagnose(state, batch, key)
  ids = batch.get("example_id", jnp.zeros(0, int)).addressable_data(0)  # of this host
  return NumericError(
    f"step {n}: loss or gradient not finite {BAD_IN_ROW} times in a row; "
    f"task {task}, terms {terms or 'finite'}, gradients {modules[:8]}, batch ids "
    f"{ids[:16].tolist()}. Parameters are as before the first; lower optim.lr or look "
    "at the data."
  )


def _shape(batch):
  return tuple((k, x.shape, x.dtype) for k, x in sorted(batch.items()))
