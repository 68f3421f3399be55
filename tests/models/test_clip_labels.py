"""Heads on stored features: slow sums, masks, COIN's seconds learnt from a stand-in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import command
from tests import helpers
from vlp_jax import batch as batch_lib
from vlp_jax import resolve, settings, train
from vlp_jax.evaluators import segments
from vlp_jax.objectives import classify

MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)


def batch(seed=0):
  x = np.random.default_rng(seed).normal(size=(3, 4, 24)).astype(np.float32)
  return {"clips_features": x, "clips_mask": MASK}


def made(**fields):
  given = dict(name="clip_labels", variant="mu", num_classes=5) | fields
  model = resolve.model(given)
  variables = jax.jit(model.init)(jax.random.key(1), batch_lib.zeros(model.spec()))
  return model, variables


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("pool", [False, True])
def test_slow_sums(hidden, pool):
  model, variables = made(hidden=hidden, pool=pool)
  given = batch()
  out = model.apply(variables, given)
  weights = jax.tree.map(lambda w: np.asarray(w, np.float64), variables["params"])

  def answer(x):
    for name in ("deep", "classifier") if hidden else ("classifier",):
      x = x @ weights[name]["kernel"] + weights[name]["bias"]
      x = np.maximum(x, 0) if name == "deep" else x
    return x

  for row, (x, real) in enumerate(
    zip(given["clips_features"].astype(np.float64), MASK, strict=True)
  ):
    if pool and real.any():
      np.testing.assert_allclose(out["logits"][row], answer(x[real].mean(0)), rtol=2e-5)
    for at in np.flatnonzero(real) if not pool else ():
      np.testing.assert_allclose(out["logits"][row, at], answer(x[at]), rtol=2e-4)
  want = MASK.any(1) if pool else MASK
  np.testing.assert_array_equal(out["logits_mask"], want)


@pytest.mark.parametrize("pool", [False, True])
def test_what_is_behind_the_mask_changes_nothing(pool):
  model, variables = made(pool=pool)
  given, shape = batch(), (3,) if pool else (3, 4)
  label = np.array([1, 4, 0]) if pool else np.arange(12).reshape(3, 4) % 5
  rubbish = np.where(MASK[..., None], given["clips_features"], np.nan)
  ids = dict(example_id=jnp.arange(3), label=jnp.asarray(label, jnp.int32))
  assert label.shape == shape

  def loss(params, x):
    apply = lambda v, b, **_: (model.apply(v, b), {})
    rows = given | ids | {"clips_features": x}
    terms, _, _ = classify.softmax(apply, {"params": params}, rows, jax.random.key(0))
    return terms["classify"].value

  both = [
    jax.value_and_grad(loss)(variables["params"], x)
    for x in (given["clips_features"], rubbish)
  ]
  jax.tree.map(np.testing.assert_array_equal, *both)
  assert np.isfinite(both[0][0])


def test_mistakes_are_told():
  model, variables = made()
  with pytest.raises(ValueError, match=r"has width 8; clip_labels expects 24"):
    model.apply(variables, batch() | {"clips_features": np.zeros((3, 4, 8))})
  with pytest.raises(ValueError, match="hidden is -1"):
    made(hidden=-1)


def test_segments_are_ranked_by_what_is_rated():
  """Of YouTube-8M: one answer a segment, judged by MAP."""
  model, variables = made(pool=True, num_classes=2)
  label = np.array([[1, -1], [0, 1], [-1, -1]], np.int32)
  rows = batch() | {"label": label, "example_mask": np.array([True, True, False])}
  apply = lambda v, b, **_: (model.apply(v, b), {})
  (name, found), *_ = segments.MeanAveragePrecision(apply, [rows]).run(variables)
  scores = np.asarray(model.apply(variables, rows)["logits"])
  first = 1.0 if scores[0, 0] > scores[1, 0] else 0.5
  assert (name, found.value) == ("map", (first + 1.0) / 2)


def test_it_learns_what_happens_each_second(twins, monkeypatch):
  """COIN's config on generated features: words of steps, in noise of one and a half."""
  monkeypatch.chdir(helpers.ROOT)
  given = settings.plain(command.config_of("configs/coin/linear.py:runlocal"))
  given |= dict(total_steps=150, log_every=50)
  given["checkpoint"]["every"] = 150
  given["optim"] |= dict(lr=0.02)
  given["input"]["rows"] = 24
  out = train.run(given, devices=jax.devices()[:1])
  found = out.results["seconds/frame_accuracy"]
  step = out.results["seconds/step_accuracy"]
  # 0.86 and 0.87 where the commonest class gives 0.59 and 0.21.
  assert found.value > found.chance + 0.2
  assert step.value > step.chance + 0.3
