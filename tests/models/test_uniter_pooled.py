"""`Model.pooled` gives what the model's call gives, and computes less."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.bench import workload
from tests.reference import flops as flops_reference
from vlp_jax import batch as batch_lib
from vlp_jax import optim, sharding, step
from vlp_jax import state as state_lib
from vlp_jax.costs import families
from vlp_jax.layers import transformer
from vlp_jax.models import uniter
from vlp_jax.objectives import answer, match

KEY = jax.random.key(3)
MU = uniter.MU | {"dropout": 0.0}
PLAIN = ("unrolled", "a loop", "pair")


def scenes(rows=4, words=6, regions=5, images=("regions",)):
  rng = np.random.default_rng(0)
  sizes = rng.integers(2, words + 1, rows)
  out = {
    "text_ids": rng.integers(5, 50, (rows, words)).astype(np.int32),
    "text_mask": np.arange(words) < sizes[:, None],
    "example_id": np.arange(rows, dtype=np.int32),
    "match": rng.integers(0, 2, rows).astype(np.int32),
    "label": rng.integers(0, 2, rows).astype(np.int32),
  }
  for name in images:
    count = rng.integers(1, regions + 1, rows)
    out[f"{name}_features"] = rng.normal(size=(rows, regions, 16)).astype(np.float32)
    out[f"{name}_boxes"] = rng.random((rows, regions, 7)).astype(np.float32)
    out[f"{name}_mask"] = np.arange(regions) < count[:, None]
  out["text_mask"][-1] = False  # a row that only pads
  return {k: jnp.asarray(x) for k, x in out.items()}


def made(heads=("itm",), **more):
  model = uniter.Model(vocab_size=50, **MU | {"heads": heads} | more)
  init = lambda key: nn.unbox(model.init(key, batch_lib.zeros(model.spec())))
  return model, jax.jit(init)(jax.random.key(0))["params"]


def graded(model, params, batch, objective, **hyper):
  """(loss, gradients) of an objective of the model."""
  apply = state_lib.make_apply(model)

  def loss(params):
    terms, _, _ = objective(apply, {"params": params}, batch, KEY, **hyper)
    return sum(t.value for t in terms.values())

  return jax.jit(jax.value_and_grad(loss))(params)


def same(one, other):
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, one, other)


ITM = functools.partial(match.itm, negatives="given", wra_coef=0.0)
TWO = ("regions", "regions2")
CASES = {
  "unrolled": (ITM, {}, {}),
  "one layer": (ITM, {"depth": 1}, {}),
  "a loop": (ITM, {"depth": 5}, {}),
  "recomputed": (ITM, {"depth": 3, "remat": "full"}, {}),
  "pair": (answer.nlvr2, {"heads": ("pair",), "type_vocab": 3}, {"images": TWO}),
  "triplet": (answer.nlvr2, {"heads": ("triplet",), "type_vocab": 3}, {"images": TWO}),
}


@pytest.mark.parametrize(
  "case",
  [
    *PLAIN,
    *(pytest.param(k, marks=pytest.mark.slow) for k in CASES if k not in PLAIN),
  ],
)
def test_loss_and_gradients_are_those_of_the_call(case):
  objective, given, images = CASES[case]
  model, params = made(**given)
  batch = scenes(**images)
  plain = graded(model, params, batch, objective)
  same(graded(model, params, batch, objective, method="pooled"), plain)
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain[1])) > 1e-3


def test_compacted_and_packed_rows():
  model, params = made()
  run = jax.jit(functools.partial(model.apply, {"params": params}))
  first = jax.jit(functools.partial(model.apply, {"params": params}, method="pooled"))
  batch = scenes()
  masks = [batch["text_mask"], batch["regions_mask"]]
  compact = batch | {"fuse_index": match.compact(masks, 11)[:, ::-1]}
  for one in (batch, compact):
    wanted = {k: run(one)[k] for k in ("pooled", "itm_logits")}
    same(first(one), wanted)

  # Two examples a row: words 1 1 2 2, regions 1 2 2.
  rows = {
    "text_ids": jnp.array([[2, 7, 2, 9]]),
    "text_mask": jnp.ones((1, 4), bool),
    "text_segments": jnp.array([[1, 1, 2, 2]]),
    "text_positions": jnp.array([[0, 1, 0, 1]]),
    "segment_starts": jnp.array([[0, 2]]),
    "regions_segments": jnp.array([[1, 2, 2]]),
  }
  rows |= {k: x[:1, :3] for k, x in batch.items() if k.startswith("regions_")}
  rows["regions_mask"] = jnp.ones((1, 3), bool)
  rows["fuse_index"] = jnp.array([[0, 1, 4, 2, 3, 5, 6]])  # example by example
  out = first(rows)
  assert out["itm_logits"].shape == (1, 2, 2)
  wanted = run(rows)
  same(out, {k: wanted[k] for k in out})
  assert np.abs(out["pooled"][0, 0] - out["pooled"][0, 1]).max() > 1e-3


def test_dropout_is_that_of_the_call_but_for_the_draw():
  """The logits' mean and spread over masks are those of the call."""
  model, params = made(dropout=0.3)
  batch = scenes()

  def means(method):
    draw = lambda key: model.apply(
      {"params": params}, batch, train=True, rngs={"dropout": key}, method=method
    )["itm_logits"]
    drawn = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 400))
    return drawn[:, :3].mean(0), drawn[:, :3].std(0)  # the last row is none

  (mean, std), (other, spread) = means(None), means("pooled")
  assert (np.abs(mean - other) < 4.5 * np.hypot(std, spread) / 20).all()
  np.testing.assert_allclose(spread / std, 1, atol=0.2)


@pytest.mark.parametrize("depth", [3, transformer.FEW + 1])
def test_the_last_layer_runs_for_the_first_token_alone(depth):
  model, params = made(depth=depth)
  shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  batch, leaves = jax.tree.map(shape, (scenes(), params))
  run = lambda p, batch: model.apply({"params": p}, batch, method="pooled")
  parts = {}
  for method in (None, "pooled"):
    objective = families.Objective.of(functools.partial(ITM, method=method))
    parts[method] = families.of(model).forward(model, batch, None, objective)
  counted = flops_reference.of(run, leaves, batch)
  assert sum(parts["pooled"].values()) == pytest.approx(counted, rel=1e-3)
  saved = 1 - parts["pooled"]["blocks"] / parts[None]["blocks"]
  assert saved == pytest.approx(0.7 / depth, abs=0.08)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [3, transformer.FEW + 1])
def test_training_is_the_same_on_any_mesh(depth):
  size = dataclasses.replace(workload.SIZES["mini"], depth=depth, dropout=0.0, rows=8)

  def losses(given, micro):
    mesh = sharding.mesh(given, jax.devices()[: 1 if given is None else 8])
    make, _, shardings, tx = state_lib.init(
      workload.model(size), lambda p: optim.build(p, **workload.ADAMW), mesh
    )
    take = step.build(
      workload.pooled,
      apply=state_lib.make_apply(workload.model(size)),
      tx=tx,
      mesh=mesh,
      shardings=shardings,
      micro=micro,
    )
    state, batch = make(), sharding.put(workload.batch(size), mesh)
    key, found = jax.device_put(KEY, sharding.replicated(mesh)), []
    for _ in range(3):
      state, means = take(state, batch, key)
      found.append(float(means["loss"].value))
    return found

  one = losses(None, 1)
  assert one[2] != one[0]
  for given in (dict(data=8), dict(data=2, fsdp=2, model=2)):
    for micro in (1, 2) if given["data"] < 8 else (1,):
      np.testing.assert_allclose(losses(given, micro), one, rtol=1e-6)


def test_what_reads_all_states_refuses():
  model, params = made()
  batch, apply = scenes(), state_lib.make_apply(model)
  with pytest.raises(ValueError, match=r"vlp_jax.models.uniter has no method 'nope'"):
    ITM(apply, {"params": params}, batch, KEY, method="nope")
  with pytest.raises(ValueError, match=r"wra_coef=0.1 reads states"):
    match.itm(apply, {"params": params}, batch, KEY, method="pooled")
  image = {k: x for k, x in batch.items() if k.startswith("regions")}
  with pytest.raises(KeyError, match="no text_ids"):
    model.apply({"params": params}, image, method="pooled")
  model, params = made(heads=("paired_attn",), type_vocab=3)
  with pytest.raises(ValueError, match="reads all states"):
    model.apply({"params": params}, scenes(images=TWO), method="pooled")
