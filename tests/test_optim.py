"""Optimisers against slow oracles in float64; groups, clipping, schedules, averages."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.reference import optim as reference
from vlp_jax import optim
from vlp_jax.errors import UserError

STEPS = 5
SHAPES = {"enc": {"kernel": (3, 4), "bias": (4,)}, "zero": (2,), "stack": (2, 3, 4)}
CASES = [
  ("adamw", dict(wd=0.1)),
  ("adamw", dict(wd=0.1, decay="before", b2=0.98)),
  ("adamw", dict(wd=0.1, eps=1e-2, eps_on="raw")),
  ("adam", dict(wd=0.1, b1=0.0)),
  ("bert_adam", dict(wd=0.1)),
  ("bert_adam", dict(max_grad_norm=None)),
  ("sgd", dict()),
  ("sgd", dict(momentum=0.9, wd=0.1)),
  ("sgd", dict(momentum=0.9, nesterov=True)),
  ("lamb", dict(wd=0.1)),
  ("lamb", dict(wd=0.1, trust=False)),
  ("lars", dict(wd=0.1)),
  ("lars", dict(trust=None, nesterov=True)),
  ("adafactor", dict()),
  ("adafactor", dict(min_factored=2, wd=0.1, b1=0.9)),
  ("adafactor", dict(min_factored=2, threshold=None, relative=False)),
]


def tree(seed=0, dtype=np.float64, scale=1.0):
  rng = np.random.default_rng(seed)
  make = lambda shape: (scale * rng.normal(size=shape)).astype(dtype)
  out = jax.tree.map(make, SHAPES, is_leaf=lambda x: isinstance(x, tuple))
  if seed == 0:
    out["zero"][:] = 0.0  # trust ratios of an empty parameter are 1
  return out


def shapes():
  return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree(dtype=np.float32)))


def descend(tx, params, steps=STEPS):
  state, step = jax.jit(tx.init)(params), jax.jit(tx.update)
  for seed in range(1, steps + 1):
    updates, state = step(tree(seed, scale=2.0), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def first_step(tx, grads, params):
  return jax.jit(lambda g, p: tx.update(g, tx.init(p), p))(grads, params)


@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_rules_match_the_oracle(name, hyper):
  given = dict(lr=0.02, total_steps=8, warmup=3)
  rate = optim.schedule("linear", **given)
  lrs = [rate(n) for n in range(1, STEPS + 1)]
  with jax.enable_x64(True):
    start = jax.tree.map(jnp.asarray, tree())
    tx = optim.build(start, name=name, stacked="^stack$", **given, **hyper)
    got, _ = descend(tx, start)
    got = jax.tree.map(np.asarray, got)
  grads = [tree(seed, scale=2.0) for seed in range(1, STEPS + 1)]

  def oracle(pick):
    return reference.run(name, pick(tree()), [pick(g) for g in grads], lrs, **hyper)

  for pick in (
    lambda t: t["enc"]["kernel"],
    lambda t: t["enc"]["bias"],
    lambda t: t["zero"],
    lambda t: t["stack"][0],  # each layer of a stack as a parameter of its own
    lambda t: t["stack"][1],
  ):
    assert pick(got).dtype == np.float64
    np.testing.assert_allclose(pick(got), oracle(pick), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
  ("ours", "theirs"),
  [
    (dict(name="adamw", decay="before", wd=0.1), optax.adamw(0.1, weight_decay=0.1)),
    (dict(name="lamb", wd=0.1), optax.lamb(0.1, weight_decay=0.1)),
    (dict(name="sgd", momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    (dict(name="adafactor"), optax.adafactor(0.1)),
  ],
)
def test_rules_match_optax(ours, theirs):
  start = jax.tree.map(jnp.asarray, tree(dtype=np.float32))
  mine = optim.build(start, lr=0.1, total_steps=9, schedule="constant", **ours)
  got, want = descend(mine, start)[0], descend(theirs, start)[0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)


@pytest.mark.parametrize(
  "rule",
  [
    *(dict(name=name) for name in ("adamw", "adam", "bert_adam", "lamb", "lars")),
    dict(name="sgd", momentum=0.9, nesterov=True),
    dict(name="adafactor", b1=0.9, min_factored=2),
  ],
)
def test_a_skipped_step_keeps_count_and_slots(rule):
  start = jax.tree.map(jnp.asarray, tree(dtype=np.float32))
  tx = optim.build(start, lr=0.1, total_steps=9, **rule)
  step = jax.jit(tx.update)
  _, state = step(start, tx.init(start), start)
  bad = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan), start)
  _, kept = step(bad, state, start, ok=jnp.array(False))
  assert jax.tree.structure(kept) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, kept, state)
  taken, plain = (
    step(start, state, start, ok=jnp.array(True)),
    step(start, state, start),
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
  jax.tree.map(close, taken, plain)
  assert int(taken[1].count) == 2


def test_stack_is_layer_by_layer():
  start = {"stack": jnp.asarray(tree(dtype=np.float32)["stack"])}
  grads = {"stack": start["stack"] * jnp.array([1.0, 50.0])[:, None, None]}
  steps = {}
  for stacked in (None, "stack"):
    tx = optim.build(
      start, name="lars", lr=1.0, total_steps=2, schedule="constant", stacked=stacked
    )
    steps[stacked] = first_step(tx, grads, start)[0]["stack"]
  norms = jnp.linalg.norm(steps["stack"].reshape(2, -1), axis=1)
  sizes = jnp.linalg.norm(start["stack"].reshape(2, -1), axis=1)
  np.testing.assert_allclose(norms, 1e-3 * sizes, rtol=1e-5)
  assert not np.allclose(steps[None], steps["stack"], rtol=1e-2)
  with pytest.raises(UserError, match="finds no parameter"):
    optim.build(start, name="lars", lr=1.0, total_steps=2, stacked="layers")


def test_groups_scale_freeze_and_switch():
  start = jax.tree.map(jnp.asarray, tree(dtype=np.float32))
  groups = (
    (r"bias$", dict(wd=0.0, lr_scale=10.0)),
    (r"^stack", dict(freeze=True)),
    (r"^zero", dict(tx="sgd", momentum=0.5)),
    (r"absent", dict(optional=True)),
    (r".*", dict(wd=0.5)),
  )
  tx = optim.build(
    start, name="adamw", lr=0.1, total_steps=4, schedule="constant", groups=groups
  )
  state = jax.eval_shape(tx.init, start)
  assert {k: sorted(v) for k, v in state.slots.items()} == {
    "enc/bias": ["m", "v"],
    "enc/kernel": ["m", "v"],
    "zero": ["v"],
  }
  grads = jax.tree.map(jnp.ones_like, start)
  updates, state = first_step(tx, grads, start)
  assert state.count == 1
  assert not np.asarray(updates["stack"]).any()
  # The first Adam step is the sign of the gradient.
  np.testing.assert_allclose(updates["enc"]["bias"], -1.0, rtol=1e-5)
  kernel = start["enc"]["kernel"]
  want = -0.1 - 0.1 * 0.5 * (kernel - 0.1)
  np.testing.assert_allclose(updates["enc"]["kernel"], want, rtol=1e-5)
  np.testing.assert_allclose(updates["zero"], -0.1, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(groups=((r"bias$", {}),)), ["cover 1 of 4", "enc/kernel, stack, zero"]),
    (dict(groups=((r"bais", {}), (".*", {}))), ["'bais' finds none", "optional"]),
    (dict(groups=((r".*", dict(decoy=1)),)), ["unknown key 'decoy'"]),
    (dict(name="adamv"), ["no optimiser 'adamv'", "Did you mean 'adam'"]),
    (dict(b3=0.9), ["unknown key 'b3'", "b1, b2"]),
    (dict(b2="0.9"), ["b2", "must be float"]),
    (dict(schedule="cosin"), ["no 'cosin'", "'cosine'"]),
    (dict(warmup=11), ["total_steps=10", "warm-up of 11", "at least 11"]),
    (dict(ema=1.0), ["ema is 1.0"]),
  ],
)
def test_mistakes_are_user_errors(change, words):
  given = dict(name="adamw", lr=0.1, total_steps=10) | change
  with pytest.raises(UserError) as error:
    optim.build(shapes(), **given)
  assert all(w in str(error.value) for w in words), error.value
  assert "\n" not in str(error.value)


def test_uncovered_parameters_are_listed_up_to_twenty():
  many = {f"p{i:02}": np.zeros(1) for i in range(25)}
  with pytest.raises(UserError, match=re.escape("p19 and 5 more")):
    optim.assign(many, ())


def test_clip_scales_by_the_global_norm_of_what_moves():
  start = jax.tree.map(jnp.asarray, tree(dtype=np.float32))
  groups = ((r"^stack", dict(freeze=True)), (r".*", {}))
  given = dict(name="sgd", lr=1.0, total_steps=2, schedule="constant", groups=groups)
  tx = optim.build(start, clip=0.5, **given)
  grads = jax.tree.map(lambda x: jnp.full_like(x, 3.0), start)
  updates = first_step(tx, grads, start)[0]
  np.testing.assert_allclose(optax.tree.norm(updates), 0.5, rtol=1e-6)
  small = jax.tree.map(lambda x: 1e-3 * x, grads)
  updates = first_step(tx, small, start)[0]
  np.testing.assert_allclose(updates["enc"]["kernel"], -3e-3, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize(("name", "clip"), [("sgd", 1.0), ("bert_adam", None)])
def test_clip_does_not_hide_what_is_not_finite(bad, name, clip):
  start = {"a": jnp.ones(2), "b": jnp.ones(2)}
  tx = optim.build(start, name=name, lr=1.0, total_steps=2, clip=clip)
  grads = {"a": jnp.array([bad, 1.0]), "b": jnp.ones(2)}
  updates, state = first_step(tx, grads, start)
  assert not np.isfinite(updates["a"][0])
  kept = updates if name == "sgd" else state.slots["a"]["m"]
  value = kept["a"][1] if name == "sgd" else kept[1]
  assert np.isfinite(value)
  assert value != 0.0
  assert np.isfinite(updates["b"]).all()


def test_low_precision_gradients_have_their_norm_in_float32():
  start = {"a": jnp.ones(4096, jnp.float32)}
  tx = optim.build(
    start, name="sgd", lr=1.0, total_steps=2, schedule="constant", clip=1.0
  )
  grads = {"a": jnp.full(4096, 300.0, jnp.float16)}  # squares overflow in float16
  updates = first_step(tx, grads, start)[0]
  np.testing.assert_allclose(updates["a"], -1 / 64, rtol=1e-5)
  assert updates["a"].dtype == jnp.float32


@pytest.mark.parametrize(
  ("name", "more", "points"),
  [
    ("linear", {}, {1: 0.1, 10: 1.0, 60: 0.5, 109: 0.01, 110: 1e-8, 200: 1e-8}),
    ("cosine", {}, {5: 0.5, 10: 1.0, 60: 0.5, 35: 0.8535534, 110: 1e-8}),
    ("polynomial", dict(power=2.0), {10: 1.0, 60: 0.25, 110: 1e-8}),
    ("constant", {}, {1: 0.1, 10: 1.0, 110: 1.0}),
    ("step", dict(boundaries=(50, 0.8)), {10: 1.0, 49: 1.0, 50: 0.1, 88: 0.01}),
  ],
)
def test_schedules_at_key_points(name, more, points):
  given = dict(lr=2e-3, total_steps=110, warmup=10, floor=1e-8) | more
  rate = optim.schedule(name, **given)
  logged = optim.learning_rate(given | dict(schedule=name, name="adamw", b2=0.98))
  for n, share in points.items():
    want = 1e-8 if share == 1e-8 else 2e-3 * share
    assert rate(n) == pytest.approx(want, rel=1e-6)
    assert float(jax.jit(rate)(jnp.int32(n))) == pytest.approx(want, rel=1e-4)
    assert logged(n) == rate(n)


def test_warmup_may_be_a_share_and_may_fill_the_run():
  assert optim.schedule(lr=1.0, total_steps=50, warmup=0.1)(5) == 1.0
  whole = optim.schedule(lr=1.0, total_steps=5, warmup=5)
  assert [whole(n) for n in (1, 5, 6)] == [0.2, 1.0, 0.0]


def test_ema_follows_the_updated_parameters():
  start = jax.tree.map(jnp.asarray, tree(dtype=np.float32))
  given = dict(name="sgd", lr=0.1, total_steps=9, schedule="constant")
  plain, tx = optim.build(start, **given), optim.build(start, ema=0.75, **given)
  params, mean, state = start, start, tx.init(start)
  for seed in (1, 2, 3):
    updates, state = tx.update(tree(seed, np.float32), state, params)
    params = optax.apply_updates(params, updates)
    mean = jax.tree.map(lambda e, p: 0.75 * e + 0.25 * p, mean, params)
  got = optim.ema_params(state)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, mean)
  assert optim.ema_params(plain.init(start)) is None


def test_slots_keep_the_boxes_of_their_parameters():
  box = lambda x, *names: nn.Partitioned(x, names=names)
  start = {"kernel": box(jnp.ones((4, 6)), "embed", "mlp"), "bias": jnp.ones(6)}
  tx = optim.build(nn.unbox(start), name="adamw", lr=0.1, total_steps=3, ema=0.9)
  state = jax.eval_shape(tx.init, start)
  assert state[0].slots["kernel"]["m"].names == ("embed", "mlp")
  assert optim.ema_params(state)["kernel"].names == ("embed", "mlp")
  plain = nn.unbox(start)
  _, after = first_step(tx, plain, plain)
  assert jax.tree.structure(after) == jax.tree.structure(nn.unbox(state))
