"""All five UNITER tasks in one step: devices and microbatches change nothing."""

import functools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from vlp_jax import sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.models import uniter
from vlp_jax.objectives import masked, match
from vlp_jax.vocab import Vocab

VOCAB = Vocab(40, 0, 4, 1, 2, 3, (0, 1, 2, 3, 4), (5, 40))
TASKS = {
  "itm": match.itm,
  "mlm": functools.partial(masked.mlm, vocab=VOCAB),
  "mrfr": masked.mrfr,
  "mrc": masked.mrc,
  "mrc_kl": masked.mrc_kl,
}


def every_task(apply, variables, batch, key):
  terms, aux = {}, {}
  for task in TASKS.values():
    more, means, _ = task(apply, variables, batch, key)
    terms, aux = terms | more, aux | means
  return terms, aux, {}


every_task.prepare = match.swap_pairs


def batch(step, rows=16):
  rng = np.random.default_rng(step)
  probs = rng.random((rows, 5, 11)) + 0.01
  return {
    "text_ids": rng.integers(5, 40, (rows, 7)).astype(np.int32),
    "text_mask": np.arange(7) < rng.integers(2, 8, (rows, 1)),
    "regions_features": rng.random((rows, 5, 16)),
    "regions_boxes": rng.random((rows, 5, 7)),
    "regions_mask": np.arange(5) < rng.integers(1, 6, (rows, 1)),
    "regions_probs": probs / probs.sum(-1, keepdims=True),
    "example_id": np.arange(step * rows, (step + 1) * rows, dtype=np.int32),
    "example_mask": np.arange(rows) < rows - step % 3,
    "group_id": rng.integers(0, 9, rows).astype(np.int32),
  }


def trained(mesh=None, devices=1, micro=1, steps=20, dropout=0.1):
  model = uniter.Model(vocab_size=40, **uniter.VARIANTS["mu"] | {"dtype": "float64"})
  model = model.clone(dropout=dropout)
  mesh = sharding.mesh(mesh, jax.devices()[:devices])
  tx = optax.adam(1e-3)
  make, _, shardings, tx = state_lib.init(model, lambda _: tx, mesh)
  step = step_lib.build(
    every_task,
    apply=state_lib.make_apply(model),
    tx=tx,
    mesh=mesh,
    shardings=shardings,
    micro=micro,
  )
  wide = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x
  state, log = jax.tree.map(wide, make()), []
  for i in range(steps):
    state, means = step(state, sharding.put(batch(i), mesh), jax.random.key(0))
    log.append({k: float(m.value) for k, m in means.items()})
  return nn.unbox(state.params), log


@pytest.mark.multidevice
@pytest.mark.slow
def test_devices_and_microbatches_change_nothing_in_float64():
  with jax.enable_x64(True):
    whole = trained()
    # A microbatch draws what it drops by its own first example.
    plain = trained(dropout=0.0)
    log = whole[1]
    assert log != plain[1]
    assert {"itm", "wra", "mlm", "mrfr", "mrc", "mrc_kl"} <= set(log[0])
    for given in (
      dict(micro=4, dropout=0.0),
      dict(devices=2),
      dict(mesh=dict(data=2, fsdp=2, model=2), devices=8),
      dict(mesh=dict(data=8), devices=8, micro=2, dropout=0.0),
    ):
      other, lines = trained(**given)
      params, log = whole if "dropout" not in given else plain
      for line, want in zip(lines, log, strict=True):
        assert line == pytest.approx(want, rel=1e-9, abs=1e-12), given
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9),
        other,
        params,
      )
