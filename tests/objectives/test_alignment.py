"""Weak step alignment: published loss, the alignment on device, gradients, padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import steps as reference
from vlp_jax.evaluators import localize
from vlp_jax.objectives import alignment


def test_published_loss():
  _, given, want, _ = helpers.golden("crosstask")
  of = lambda c: alignment.weak_steps(given["loss_O"], given["loss_Y"], c).mean()
  assert float(of(given["loss_C"])) == pytest.approx(float(want["loss"]), rel=1e-6)
  plain = float(of(jnp.zeros((9, 4))))
  assert plain == pytest.approx(float(want["loss_no_constraint"]), rel=1e-6)


def test_published_components():
  *_, want, meta = helpers.golden("crosstask")
  found = alignment.components(meta["steps"])
  assert found["a"].shape[0] == meta["n_components"]
  np.testing.assert_allclose(found["a"].T @ found["a"], want["A_gram_a"])
  np.testing.assert_allclose(found["a"].T @ found["b"], want["A_cross_ab"])


def test_the_alignment_on_device_is_the_published_one():
  _, given, want, _ = helpers.golden("crosstask")
  run = jax.jit(alignment.align, static_argnames=("exactly_one", "background"))
  for i in (0, 1, 4):  # 3 has as many steps as seconds: a fault of the code
    for name, hyper in (
      ("one", {}),
      ("many_bg1", dict(exactly_one=False, background=1.0)),
    ):
      got = run(given[f"cost{i}"], **hyper)
      np.testing.assert_array_equal(got, want[f"assign{i}_{name}"])


def test_padding_does_not_matter_and_short_videos_get_nothing():
  rng = np.random.default_rng(0)
  cost = rng.normal(size=(9, 4)).astype(np.float32)
  run = jax.jit(lambda c, w, s: alignment.align(c, where=w, steps=s))
  for num, k in ((6, 2), (7, 4), (4, 4), (3, 4)):
    got = run(cost, jnp.arange(9) < num, jnp.arange(4) < k)
    want = np.zeros((9, 4), bool)
    want[:num, :k] = localize.align(cost[:num, :k])
    np.testing.assert_array_equal(got, want)
    assert got.any() == (num >= k)


def batch(seed=0):
  rng = np.random.default_rng(seed)
  given = {
    "clips_mask": np.arange(6) < np.array([[6], [5], [4]]),
    "label_steps": np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], np.int32),
    "label_constraint": (rng.random((3, 6, 3)) < 0.3).astype(np.float32),
    "example_id": np.arange(3, dtype=np.int32),
    "example_mask": np.array([True, True, False]),
  }
  return rng.normal(size=(3, 6, 3)).astype(np.float32), given


def apply(variables, batch, *, rng=None, train=False, method=None):
  return {"step_logits": variables}, {}


@jax.jit
def loss(variables, given):
  term, aux, _ = alignment.weak(apply, variables, given, jax.random.key(0), weight=10.0)
  return term["steps"], aux["steps/allowed"]


slope = jax.jit(jax.grad(lambda v, b: loss(v, b)[0].value))


def test_objective_by_exhaustive_search():
  logits, given = batch()
  total = 0.0
  for i, (num, k) in enumerate(((6, 3), (5, 2))):
    x = logits[i, :num, :k].astype(float)
    cost = 10 * given["label_constraint"][i, :num, :k]
    cost = cost - x + np.log(np.exp(x).sum(axis=1, keepdims=True))
    total += reference.align(cost)[1] / num
  term, allowed = loss(logits, given)
  assert float(term.total) == pytest.approx(total, rel=1e-5)
  assert float(term.weight) == 2
  assert float(allowed.weight) == 5
  fixed = np.zeros((3, 6, 3), np.int32)
  fixed[0, [0, 1, 2], [0, 1, 2]] = fixed[1, [3, 4], [0, 1]] = 1
  term, _ = loss(logits, given | {"label_assignment": fixed})
  assert float(term.total) > total


def test_gradients_are_finite_and_stay_within_the_masks():
  logits, given = batch()
  grad = np.asarray(slope(logits, given))
  where = given["clips_mask"][..., None] & (given["label_steps"][:, None] > 0)
  assert np.isfinite(grad).all()
  assert not grad[~where].any()
  assert not grad[2].any()
  assert grad[:2].any()
  empty = given | {"clips_mask": np.zeros((3, 6), bool)}
  assert float(loss(logits, empty)[0].value) == 0
  assert not np.asarray(slope(logits, empty)).any()
