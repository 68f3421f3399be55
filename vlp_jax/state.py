"""What a step carries on, and how a linen module is applied."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vlp_jax import batch as batch_lib
from vlp_jax import sharding
from vlp_jax.errors import UserError, of_config


@flax.struct.dataclass
class TrainState:
  """Everything that a step changes.

  Attributes:
    step: int32, steps taken, skipped ones included.
    params: float32 parameters.
    mutable: other collections: batch statistics, teachers, queues.
    opt_state: of the optax transformation.
    skipped, bad_in_row: int32, non-finite steps in all and without a break.
  """

  step: jax.Array
  params: Any
  mutable: Any
  opt_state: Any
  skipped: jax.Array
  bad_in_row: jax.Array

  @property
  def variables(self) -> dict[str, Any]:
    return {"params": self.params} | self.mutable


def make_apply(model: nn.Module, *, generator: str | None = None) -> Callable:
  """`apply(variables, batch, *, rng, train, method) -> (out, mutable)` of a model.

  `rng` feeds dropout; `mutable` holds the collections that the call changed, {} unless
  `train`.

  Args:
    generator: of dropout's bits, "threefry2x32" or "rbg"; None: that of `rng`.
  """

  def apply(variables, batch, *, rng=None, train=False, method=None):
    if isinstance(method, str) and not callable(getattr(model, method, None)):
      raise ValueError(f"model {type(model).__module__} has no method {method!r}.")
    if rng is not None and generator not in (None, str(jax.random.key_impl(rng))):
      shape = jax.eval_shape(
        lambda: jax.random.key_data(jax.random.key(0, impl=generator))
      )
      words = jax.random.bits(rng, shape.shape, shape.dtype)
      rng = jax.random.wrap_key_data(words, impl=generator)
    rngs = {} if rng is None else {"dropout": rng}
    others = [k for k in variables if k != "params"]
    if train and others:
      return model.apply(
        variables, batch, train=True, rngs=rngs, method=method, mutable=others
      )
    return model.apply(variables, batch, train=train, rngs=rngs, method=method), {}

  return apply


def init(
  model: nn.Module,
  tx_of: Callable[[Any], optax.GradientTransformation],
  mesh: jax.sharding.Mesh,
  *,
  seed: int = 0,
  extra: Callable[[Any], Mapping[str, Any]] | None = None,
  scale: Mapping[str, float] | None = None,
) -> tuple[Callable[[], TrainState], TrainState, Any, optax.GradientTransformation]:
  """Prepares a state without making it, so that a restore need not make one first.

  Args:
    model: with `spec()`, every batch key it reads: no parameter depends on which
      modalities a first batch happens to have.
    tx_of: params (abstract, unboxed) -> optimizer.
    extra: variables -> further collections for `mutable` (teachers, queues).
    scale: regular expression -> factor on the initial parameters whose path it finds.
  Returns: (make() -> state on the mesh, abstract state, shardings, optimizer).
  Raises: UserError for fields of the model with which it cannot be traced.
  """
  with of_config("config.model"):
    example = batch_lib.zeros(model.spec())

  def variables_of(key):
    out = dict(model.init({"params": key, "dropout": key}, example))
    out["params"] = _scaled(out["params"], scale or {})
    return out | dict(extra(out) if extra else {})

  def state_of(variables):
    mutable = dict(variables)
    params, zero = mutable.pop("params"), jnp.zeros((), jnp.int32)
    return TrainState(zero, params, mutable, tx.init(params), zero, zero)

  with sharding.context(mesh):
    with of_config("config.model"):
      boxed = jax.eval_shape(variables_of, jax.random.key(seed))
    tx = tx_of(nn.unbox(boxed)["params"])
    shapes = jax.eval_shape(state_of, boxed)
  shardings = sharding.state_shardings(shapes, mesh)
  plain = lambda: nn.unbox(state_of(variables_of(jax.random.key(seed))))

  def make():
    with sharding.context(mesh):
      return jax.jit(plain, out_shardings=shardings)()

  place = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return make, jax.tree.map(place, nn.unbox(shapes), shardings), shardings, tx


def _scaled(params, factors: Mapping[str, float]):
  found = set()

  def one(path, x):
    # Boxes with axis names add a last step to the path.
    name = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    for pattern, factor in factors.items():
      if re.search(pattern, name):
        found.add(pattern)
        return x * factor
    return x

  out = jax.tree_util.tree_map_with_path(one, params)
  if set(factors) - found:
    raise UserError(f"init_scale finds no parameter: {sorted(set(factors) - found)}")
  return out
