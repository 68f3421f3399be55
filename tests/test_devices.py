"""Step 1 of the two systems in float32: the same loss and gradients on any mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import test_uniter_step
from vlp_jax import sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.models import mil_nce, uniter
from vlp_jax.objectives import contrastive


def keep_gradients():
  """Changes nothing; the optimizer's state is the last gradient."""
  zeros = lambda p: jax.tree.map(jnp.zeros_like, p)
  return optax.GradientTransformation(zeros, lambda g, s, p: (zeros(g), g))


def first_step(model, objective, batch, mesh):
  devices = jax.devices()[: int(np.prod(list(mesh.values())))]
  mesh = sharding.mesh(mesh, devices)
  make, _, shardings, tx = state_lib.init(model, lambda _: keep_gradients(), mesh)
  apply = state_lib.make_apply(model)
  step = step_lib.build(objective, apply=apply, tx=tx, mesh=mesh, shardings=shardings)
  state, means = step(make(), sharding.put(batch, mesh), jax.random.key(0))
  grads = nn.unbox(jax.device_get(state.opt_state))
  return {k: float(m.value) for k, m in means.items()}, grads


def same_on_every_mesh(model, objective, batch, *meshes):
  log, want = first_step(model, objective, batch, dict(data=1))
  for mesh in meshes:
    other, grads = first_step(model, objective, batch, mesh)
    assert other == pytest.approx(log, rel=1e-5, abs=1e-7), mesh
    for (path, a), b in zip(
      jax.tree.leaves_with_path(grads), jax.tree.leaves(want), strict=True
    ):
      at = f"{mesh} {jax.tree_util.keystr(path)}"
      np.testing.assert_allclose(
        a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 2e-2), err_msg=at
      )


@pytest.mark.multidevice
def test_uniter():
  """All five pretraining tasks at once, with dropout."""
  narrow = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
  batch = jax.tree.map(narrow, test_uniter_step.batch(0))
  model = uniter.Model(vocab_size=40, **uniter.VARIANTS["mu"])
  mesh = dict(data=2, fsdp=2, model=2)
  same_on_every_mesh(model, test_uniter_step.every_task, batch, mesh)


@pytest.mark.multidevice
def test_mil_nce():
  """S3D with statistics over the whole batch, negatives from every device."""
  rng = np.random.default_rng(0)
  mask = np.arange(5) < rng.integers(1, 6, (16, 3, 1))
  batch = {
    "video_frames": rng.integers(0, 256, (16, 4, 32, 32, 3)).astype(np.uint8),
    "video_mask": np.ones((16, 4), bool),
    "narration_ids": np.where(mask, rng.integers(1, 30, mask.shape), 0).astype(
      np.int32
    ),
    "narration_mask": mask,
    "example_id": np.arange(16, dtype=np.int32),
  }
  model = mil_nce.Model(vocab_size=30, **mil_nce.VARIANTS["mu"])
  same_on_every_mesh(model, contrastive.mil_nce, batch, dict(data=8))
