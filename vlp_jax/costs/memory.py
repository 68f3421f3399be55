"""Bytes a device: state from shapes and shardings, activations from residuals.

What the backward pass keeps is known before any compile: `jax.vjp` under `eval_shape`
hands out the shapes of its residuals. Compiled programs keep nearly the same (a few
percent either way), plus the gradients.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from vlp_jax import state as state_lib
from vlp_jax.costs import job as job_lib
from vlp_jax.metrics import Mean


def size(x: Any) -> float:
  """Bytes of an abstract array; keys of random numbers count as two words."""
  wide = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
  return float(math.prod(x.shape) * wide)


def tiled(x: Any) -> float:
  """Bytes on a TPU, whose last two axes come in tiles: 128 by 32 bytes, at least 8.

  Heads 64 wide or 162 tokens therefore take up to twice their size.
  """
  if not x.shape:
    return size(x)
  wide = size(x) / max(math.prod(x.shape), 1)
  *lead, rows, lanes = (1, *x.shape)
  tile = max(8, round(32 / wide)) if len(x.shape) > 1 else 1
  up = lambda n, k: -(-n // k) * k
  return math.prod(lead) * up(rows, tile) * up(lanes, 128) * wide


def held(tree: Any) -> float:
  """Bytes that one device holds of abstract arrays with shardings."""
  part = lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype)
  return sum(size(part(x)) for x in jax.tree.leaves(tree))


def gradients(job: job_lib.Job) -> float:
  """Bytes of the gradients of a step on a device, frozen parameters left out.

  With microbatches each shard keeps a whole sum of its own to the end of the step,
  whatever fsdp does to the parameters.
  """
  frozen, total = job.frozen(), 0.0
  for path, x in jax.tree_util.tree_flatten_with_path(job.abstract.params)[0]:
    if jax.tree_util.keystr(path, simple=True, separator="/") not in frozen:
      parts = job.mesh.shape["fsdp"] if job.settings.micro > 1 else 1
      over = "fsdp" in jax.tree.leaves(tuple(x.sharding.spec))
      total += held(x) * (parts if over else 1)
  return total


def residuals(
  job: job_lib.Job, task: str, *, platform: str = "tpu", model: Any = None
) -> list[Any]:
  """Abstract arrays that the backward pass of a whole global batch keeps.

  Args:
    platform: "cpu" or any other: some layers have code of their own for it.
    model: instead of the job's.
  """
  one = job.tasks[task]
  apply = state_lib.make_apply(job.model if model is None else model)

  def kept(params, rest, batch, key):
    prepare = getattr(one.objective, "prepare", None)
    if prepare is not None:
      batch = prepare(batch, key)

    def loss_of(params):
      terms, _, _ = one.objective(apply, rest | {"params": params}, batch, key)
      return sum(t.coef * Mean(t.total, t.weight).value for t in terms.values())

    return jax.tree.leaves(jax.vjp(loss_of, params)[1])

  plain = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  args = jax.tree.map(plain, (job.abstract.params, job.abstract.mutable))
  key = jax.eval_shape(lambda: jax.random.key(0))
  return _distinct(jax.make_jaxpr(kept)(*args, one.batch, key).jaxpr, platform)


def _distinct(jaxpr, platform) -> list[Any]:
  """Abstract results of a program, each once, without its arguments.

  Code that depends on the platform keeps the residuals of all its branches, empty in
  those that do not fill them; those of one branch are counted.
  """
  made = {out: e for e in jaxpr.eqns for out in e.outvars}

  def origin(var):
    """The variable whose value this is; None for what is empty."""
    equation = made.get(var)
    platforms = equation and equation.params.get("branches_platforms")
    if not platforms:
      return var
    own = [i for i, names in enumerate(platforms) if names and platform in names]
    at = own[0] if own else platforms.index(None)
    inner = equation.params["branches"][at].jaxpr
    found = inner.outvars[equation.outvars.index(var)]
    if found in inner.invars:  # the first operand is the platform's number
      return origin(equation.invars[1 + inner.invars.index(found)])
    return None if found in _empty(inner) else var

  found = dict.fromkeys(origin(v) for v in jaxpr.outvars if isinstance(v, core.Var))
  given = {*jaxpr.invars, *jaxpr.constvars, None}
  return [v.aval for v in found if v not in given]


def _empty(jaxpr) -> set[Any]:
  """Variables that jax fills with nothing, where another branch has a residual."""
  out = set()
  for e in jaxpr.eqns:
    source = next((v for v in e.invars if isinstance(v, core.Var)), None)
    widened = e.primitive.name == "broadcast_in_dim" and source in out
    if widened or e.primitive.name.startswith("empty"):
      out.update(e.outvars)
  return out


def activations(
  job: job_lib.Job, task: str, *, platform: str = "tpu"
) -> tuple[float, float]:
  """(bytes at the peak, bytes written for the backward pass), of a device and step.

  The peak is what is kept, and beside it two arrays of the backward pass itself as
  large as a layer's largest, or one as large as the largest outside of layers. With
  `remat` it may lie within the scanned layers, where all that a layer needs is there
  again once.

  Args:
    platform: "tpu" lays arrays out in tiles.
  """
  of, depth = tiled if platform == "tpu" else size, getattr(job.model, "depth", None)
  share = 1 / job.shards

  def split(model):
    found = residuals(job, task, platform=platform, model=model)
    inside = [of(x) * share for x in found if x.shape[:1] == (depth,)]
    return inside, [of(x) * share for x in found if x.shape[:1] != (depth,)]

  inside, outside = split(job.model)
  written = sum(inside) + sum(outside)
  peak, largest = written, max(outside, default=0.0)
  if inside:
    whole = inside
    if job.model.remat != "none":
      whole = split(job.model.clone(remat="none"))[0]
      peak = max(peak, sum(inside) + (sum(whole) - sum(inside)) / depth)
    largest = max(largest, 2 * max(whole) / depth)
  return (peak + largest) / job.settings.micro, written
