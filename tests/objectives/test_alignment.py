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


def test_infinite_costs_rule_out_and_nan_gives_nothing():
  run = jax.jit(lambda c, w, s: alignment.align(c, where=w, steps=s))
  rng, every = np.random.default_rng(1), (jnp.ones(5, bool), jnp.ones(2, bool))
  cost = np.zeros((5, 2), np.float32)
  cost[:, 0] = [np.inf, 1, 2, 3, 4]
  assert np.argwhere(run(cost, *every)).tolist() == [[1, 0], [4, 1]]
  found = {True: 0, False: 0}
  for _ in range(200):
    cost = rng.normal(size=(7, 3)).astype(np.float32)
    num, k = rng.integers(3, 8), rng.integers(1, 4)
    cost[rng.random(cost.shape) < 0.5] = np.inf
    cost[rng.random(cost.shape) < 0.05] = -np.inf
    cost[rng.random(cost.shape) < 0.02] = np.nan
    got = np.asarray(run(cost, jnp.arange(7) < num, jnp.arange(3) < k))
    own = cost[:num, :k]
    np.testing.assert_array_equal(got[:num, :k], localize.align(own))
    _, total = reference.align(np.nan_to_num(own, nan=0, posinf=1e6, neginf=-1e3))
    assert got.any() == (abs(total) < 100 and not np.isnan(own).any())
    found[bool(got.any())] += 1
  assert min(found.values()) > 20


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
  term, aux, _ = alignment.weak(
    apply, variables, given, jax.random.key(0), penalty=10.0
  )
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


def test_random_alignments_obey_order_and_constraints_and_stay():
  rng = np.random.default_rng(2)
  constraint = (rng.random((40, 9, 3)) < 0.6).astype(np.float32)
  ids = jnp.arange(40, dtype=jnp.int32)
  run = jax.jit(lambda c, i, draw: alignment.random_cost(c, i, draw=draw))
  cost = run(constraint, ids, 0)
  found = np.asarray(jax.jit(jax.vmap(alignment.align))(cost))
  chosen = found.argmax(axis=1)
  assert (found.sum(axis=1) == 1).all()
  assert (np.diff(chosen, axis=1) > 0).all()
  broken = (constraint * found).sum(axis=(1, 2))
  least = [reference.align(c)[1] for c in constraint]
  np.testing.assert_array_equal(broken, least)
  assert 0 < sum(n == 0 for n in least) < 40  # some have no way within them
  assert len({tuple(c) for c in chosen.tolist()}) > 10
  np.testing.assert_array_equal(run(constraint[5:9], ids[5:9], 0), cost[5:9])
  assert (run(constraint, ids, 1) != cost).any()


def test_the_random_objective_is_a_function_of_the_example():
  logits, given = batch()

  @jax.jit
  def made(key, example_id):
    own, keys = given | {"example_id": example_id}, dict(assignment="random")
    term, aux, _ = alignment.weak(apply, logits, own, key, penalty=10.0, **keys)
    return term["steps"].total, aux["steps/allowed"].weight

  def run(key, ids):
    found = made(jax.random.key(key), np.array(ids, np.int32))
    return tuple(map(float, found))

  first, steps = run(0, [4, 5, 6])
  assert run(7, [4, 5, 6])[0] == first  # in any step
  assert len({run(0, [k, k + 1, k + 2])[0] for k in range(5)}) > 1
  assert steps == 5
  assert first > float(loss(logits, given)[0].total)
  with pytest.raises(ValueError, match="'uniform'"):
    alignment.weak(apply, logits, given, jax.random.key(0), assignment="uniform")


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
