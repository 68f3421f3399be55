"""Mesh, rules, and where parameters go."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vlp_jax import sharding
from vlp_jax.errors import UserError


def boxed(shape, names=None, dtype=jnp.float32):
  x = jax.ShapeDtypeStruct(shape, dtype)
  return x if names is None else nn.LogicallyPartitioned(x, names)


@pytest.mark.multidevice
def test_mesh_fills_one_free_axis():
  mesh = sharding.mesh({"data": -1, "fsdp": 2})
  assert dict(mesh.shape) == dict(dcn=1, data=4, fsdp=2, model=1)
  assert sharding.batch_shards(mesh) == 8


@pytest.mark.multidevice
@pytest.mark.parametrize(
  ("config", "message"),
  [
    (dict(data=3), r"does not fit 8 devices.*\[1, 2, 4, 8\]"),
    (dict(data=-1, fsdp=-1), "at most one -1"),
    (dict(data=0), "positive integers"),
    (dict(tensor=2), "unknown axis 'tensor'"),
  ],
)
def test_meshes_that_do_not_fit_are_refused(config, message):
  with pytest.raises(UserError, match=message):
    sharding.mesh(config)


@pytest.mark.multidevice
def test_named_and_unnamed_parameters():
  mesh = sharding.mesh(dict(data=2, fsdp=2, model=2))
  tree = {
    "named": boxed((6, 8), ("embed", "mlp")),
    "odd": boxed((7, 8), ("embed", "mlp")),
    "stacked": boxed((3, 6, 2, 4), ("layers", "embed", "heads", "kv")),
    "small": boxed((256, 1024)),
    "big": boxed((3, 1023, 2048)),
    "indivisible": boxed((1025, 2049)),
    "slot of another rank": boxed((8,), ("embed", "mlp")),
  }
  specs = {k: s.spec for k, s in sharding.state_shardings(tree, mesh).items()}
  assert specs["named"] == P("fsdp", "model")
  assert specs["odd"] == P(None, "model")
  assert specs["stacked"] == P(None, "fsdp", "model", None)
  assert specs["small"] == specs["indivisible"] == P()
  assert specs["big"] == P(None, None, "fsdp")
  assert specs["slot of another rank"] == P()


@pytest.mark.multidevice
def test_unknown_and_useless_axes_are_errors():
  with pytest.raises(UserError, match=r"unknown logical axis 'wide'.*embed"):
    sharding.state_shardings({"a": boxed((4, 4), ("wide", None))}, sharding.mesh())
  mesh = sharding.mesh(dict(data=1, model=8))
  says = r"mesh.model=8 divides no parameter.*are mlp 12, heads 4; with 8.*\[1, 2, 4\]"
  tree = {"a": boxed((4, 12), ("embed", "mlp")), "b": boxed((4, 6), ("heads", "kv"))}
  with pytest.raises(UserError, match=says):
    sharding.state_shardings(tree, mesh)
  mesh = sharding.mesh(dict(data=1, fsdp=7), jax.devices()[:7])
  says = (
    r"mesh.fsdp=7.*are unnamed 4096, unnamed 1024; with 7 devices give one of \[1\]"
  )
  with pytest.raises(UserError, match=says):
    sharding.state_shardings({"a": boxed((1024, 4096))}, mesh)
  with pytest.raises(UserError, match=r"are none; .* give one of \[1\]"):
    sharding.state_shardings({"a": boxed((7, 7))}, mesh)


@pytest.mark.multidevice
def test_bytes_a_device_fall_as_one_over_n_under_fsdp():
  tree = {"a": boxed((1024, 4096), ("embed", "mlp")), "b": boxed((4096, 1024))}
  for parts in (1, 2, 4, 8):
    mesh = sharding.mesh(dict(data=-1, fsdp=parts))
    at = sharding.state_shardings(tree, mesh)
    total = sum(np.prod(at[k].shard_shape(nn.unbox(tree[k]).shape)) for k in tree)
    assert total == 2 * 1024 * 4096 / parts
