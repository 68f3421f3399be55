"""Where arrays live: one named mesh, two tiers of rules, no system file in sight.

Mesh axes are `dcn, data, fsdp, model`; batches are split over the first three. Shared
layers name the axes of their parameters and RULES maps the names to mesh axes; every
unnamed parameter above 4 MiB is split along its largest divisible axis over `fsdp`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vlp_jax import batch as batch_lib
from vlp_jax.errors import UserError

AXES = ("dcn", "data", "fsdp", "model")
BATCH_AXES = AXES[:3]
# Logical name -> mesh axis. A name that is not here is an error, not a silent replica.
RULES = {
  "embed": "fsdp",
  "heads": "model",
  "kv": None,
  "mlp": "model",
  "vocab": "model",
  "layers": None,
  "act_batch": BATCH_AXES,
  "act_length": None,
  "act_embed": None,
  "act_heads": "model",
  "act_mlp": "model",
  "act_vocab": "model",
}
FSDP_BYTES = 4 * 2**20  # smaller parameters are cheaper to hold than to gather


def mesh(
  config: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """The mesh of `config = dict(dcn=1, data=-1, fsdp=1, model=1)`; one -1 fills up.

  Raises: UserError for unknown axes and for a product unequal to the device count.
  """
  sizes = dict(dcn=1, data=-1, fsdp=1, model=1) | dict(config or {})
  devices = list(jax.devices() if devices is None else devices)
  count = len(devices)
  unknown = set(sizes) - set(AXES)
  if unknown:
    raise UserError(f"mesh: unknown axis {sorted(unknown)[0]!r}; axes are {AXES}.")
  if any(not isinstance(n, int) or (n < 1 and n != -1) for n in sizes.values()):
    raise UserError(f"mesh {sizes}: sizes are positive integers, or one -1 to fill up.")
  known = math.prod(n for n in sizes.values() if n > 0)
  free = [a for a in AXES if sizes[a] == -1]
  if len(free) > 1 or count % known or (not free and known != count):
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    raise UserError(
      f"mesh {sizes} does not fit {count} devices: the product must be {count}, with "
      f"at most one -1. Sizes that divide it: {divisors}."
    )
  for axis in free:
    sizes[axis] = count // known
  shape = tuple(sizes[a] for a in AXES)
  kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def rules(*, inside_shards: bool = False) -> list[tuple[str, Any]]:
  """RULES in flax's form. Inside a map over batch shards rows have no axis left."""
  out = RULES | ({"act_batch": None} if inside_shards else {})
  return list(out.items())


def batch_shards(mesh: jax.sharding.Mesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return math.prod(mesh.shape[a] for a in BATCH_AXES)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def check_rows(rows: int, mesh: jax.sharding.Mesh, micro: int = 1) -> None:
  """Raises UserError unless a global batch divides by shards and microbatches."""
  shards = batch_shards(mesh)
  unit = shards * micro
  if rows % unit:
    low = rows // unit * unit
    valid = [n for n in (low, low + unit) if n]
    raise UserError(
      f"a batch of {rows} rows does not divide by {shards} data shards"
      f"{f' and {micro} microbatches' if micro > 1 else ''} "
      f"(mesh {dict(mesh.shape)}); nearest valid sizes: {valid}."
    )


def put(
  batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """This process's rows of a batch as global arrays.

  Raises: UserError when the global rows do not divide by the batch shards.
  """
  batch_lib.check(batch)
  check_rows(batch_lib.rows(batch) * jax.process_count(), mesh)
  sharding = batch_sharding(mesh)
  at = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x))
  return {k: at(x) for k, x in batch.items()}


def shaped(
  shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]], mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """What `put` makes of this process's rows of such (shape, dtype) by key."""
  at, count = batch_sharding(mesh), jax.process_count()
  return {
    k: jax.ShapeDtypeStruct(
      (shape[0] * count, *shape[1:]), jax.dtypes.canonicalize_dtype(dtype), sharding=at
    )
    for k, (shape, dtype) in shapes.items()
  }


def random_key(seed: int, mesh: jax.sharding.Mesh) -> jax.Array:
  """The key of a run on every device: a step copies nothing to the mesh."""
  return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))()


def _named(names, shape, sizes, path) -> PartitionSpec:
  """Mesh axes of a parameter with named axes; each mesh axis is used once."""
  spec, used = [], set()
  for name, size in zip(names, shape, strict=True):
    if name is not None and name not in RULES:
      known = ", ".join(k for k in RULES if not k.startswith("act_"))
      raise UserError(f"{path}: unknown logical axis {name!r}. Known: {known}.")
    axis = RULES.get(name)
    fits = axis is not None and axis not in used and size % sizes[axis] == 0
    spec.append(axis if fits and sizes[axis] > 1 else None)
    used.add(spec[-1])
  return PartitionSpec(*spec)


def _big(shape, dtype) -> bool:
  return math.prod(shape) * jnp.dtype(dtype).itemsize > FSDP_BYTES


def _unnamed(shape, dtype, sizes) -> PartitionSpec:
  """The automatic rule: above 4 MiB the largest divisible axis goes over fsdp."""
  parts = sizes["fsdp"]
  axes = [i for i, n in enumerate(shape) if n % parts == 0]
  if parts == 1 or not _big(shape, dtype) or not axes:
    return PartitionSpec()
  best = max(axes, key=lambda i: shape[i])
  return PartitionSpec(*[("fsdp" if i == best else None) for i in range(best + 1)])


def _is_box(leaf) -> bool:
  return isinstance(leaf, nn.Partitioned)


def _has_names(leaf) -> bool:
  """Factored optimizer slots inherit names of another rank: those are not theirs."""
  return _is_box(leaf) and len(leaf.names) == len(leaf.value.shape)


def state_shardings(boxed: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shardings of a tree of abstract arrays, some boxed with logical axis names.

  Args:
    boxed: as from `jax.eval_shape` of an initialiser that keeps flax's boxes, so that
      optimizer slots made from boxed parameters carry the names as well.
  Returns: the unboxed tree of NamedSharding.
  Raises: UserError for an unknown axis name, and for a mesh axis above 1 that splits
    no parameter at all.
  """
  used = set()

  def one(path, leaf):
    value = leaf.value if _is_box(leaf) else leaf
    if _has_names(leaf):
      at = jax.tree_util.keystr(path, simple=True, separator="/")
      spec = _named(leaf.names, value.shape, mesh.shape, at)
    else:
      spec = _unnamed(value.shape, value.dtype, mesh.shape)
    used.update(a for a in spec if a is not None)
    return NamedSharding(mesh, spec)

  out = jax.tree_util.tree_map_with_path(one, boxed, is_leaf=_is_box)
  for axis in ("fsdp", "model"):
    if mesh.shape[axis] > 1 and axis not in used:
      raise UserError(_useless(boxed, axis, mesh))
  return out


def _useless(boxed, axis, mesh) -> str:
  """What to say of a mesh axis that divides no parameter: what it could divide."""
  found = {}  # size -> what is so large
  for leaf in jax.tree.leaves(boxed, is_leaf=_is_box):
    if _has_names(leaf):
      named = zip(leaf.value.shape, leaf.names, strict=True)
      found |= {size: name for size, name in named if RULES.get(name) == axis}
    elif axis == "fsdp" and _big(leaf.shape, leaf.dtype):
      found |= dict.fromkeys(leaf.shape, "unnamed")
  sizes = range(1, mesh.size + 1)
  valid = [n for n in sizes if mesh.size % n == 0 and any(s % n == 0 for s in found)]
  few = ", ".join(f"{found[s]} {s}" for s in sorted(found, reverse=True)[:6])
  return (
    f"mesh.{axis}={mesh.shape[axis]} divides no parameter of this model, whose sizes "
    f"for it are {few or 'none'}; with {mesh.size} devices give one of {valid or [1]}."
  )


def context(mesh: jax.sharding.Mesh):
  """The context in which steps are traced: `with sharding.context(mesh): ...`."""
  return jax.set_mesh(mesh)
