"""Max-margin ranking: published values, loops, masks, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import ranking as reference
from vlp_jax.objectives import ranking

HYPER = ("margin", "negative_weighting", "hard_negative_rate", "diagonal")


def sines(shape, rate):
  return np.sin(rate * (np.arange(np.prod(shape)) + 1)).reshape(shape)


@jax.jit
def hinge_and_weights(scores, video):
  where = jnp.ones(len(scores), bool)
  return ranking.hinge(scores), ranking.pair_weights(video, where)


def published(scores, videos, pairs, weighted):
  video = np.repeat(np.arange(videos), pairs)
  values, weights = (np.asarray(x) for x in hinge_and_weights(scores, video))
  return (values * (weights if weighted else 1.0)).mean(), np.unique(weights)


def test_published_losses_and_weights():
  value, weights = published(sines((8, 8), 0.29), 4, 2, True)
  assert value == pytest.approx(0.63713175, abs=1e-6)
  np.testing.assert_allclose(weights, [2 / 3, 2.0], rtol=1e-6)
  value, _ = published(sines((8, 8), 0.29), 4, 2, False)
  assert value == pytest.approx(0.73940164, abs=1e-6)
  value, weights = published(sines((6, 6), 0.29), 2, 3, True)
  assert value == pytest.approx(0.79791605, abs=1e-6)
  np.testing.assert_allclose(weights, [1.0])
  _, weights = published(np.eye(64), 32, 2, True)  # 64 pairs a video there
  np.testing.assert_allclose(weights, [0.51613, 16.0], rtol=1e-5)


def test_golden():
  _, given, want, _ = helpers.golden("howto100m")
  scores = given["scores"][:6, :6]
  assert published(scores, 3, 2, False)[0] == pytest.approx(float(want["mm"]), abs=1e-6)
  value, _ = published(scores, 3, 2, True)
  assert value == pytest.approx(float(want["mm_weighted"]), abs=1e-6)


def embeddings(rows=5, pairs=3, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda: rng.normal(size=(rows, pairs, 4)).astype(np.float32)
  clips, words = rng.random((2, rows, pairs)) < 0.8
  mask = (np.arange(2) < 1 + rng.integers(0, 2, (rows, pairs, 1))) & words[..., None]
  batch = {
    "clips_mask": clips,
    "narration_ids": np.ones((rows, pairs, 2), np.int32),
    "narration_mask": mask,
    "example_id": np.arange(rows, dtype=np.int32),
    "group_id": np.array([0, 1, 2, 2, 3][:rows], np.int32),
    "example_mask": np.array([True] * (rows - 1) + [False]),
  }
  variables = {"clips": draw(), "text": draw()}
  return variables, {k: jnp.asarray(x) for k, x in batch.items()}


def apply(variables, batch, *, rng=None, train=False, method=None):
  return {f"{k}_embed": x for k, x in variables.items()}, {}


@functools.partial(jax.jit, static_argnames=tuple(HYPER))
def loss(variables, batch, **hyper):
  terms, aux, _ = ranking.max_margin(
    apply, variables, batch, jax.random.key(0), **hyper
  )
  return terms["ranking"], aux["ranking/accuracy"]


def oracle(variables, batch, **hyper):
  flat = {k: np.asarray(x).reshape(-1, 4) for k, x in variables.items()}
  where = np.asarray(batch["clips_mask"] & batch["narration_mask"].any(-1))
  where = (where & np.asarray(batch["example_mask"])[:, None]).ravel()
  pairs = where.size // len(batch["group_id"])
  video = np.repeat(np.asarray(batch["group_id"]), pairs)
  scores = flat["clips"] @ flat["text"].T
  return reference.max_margin(scores.tolist(), video, where, **hyper)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("weighting", [True, False])
def test_agrees_with_loops(diagonal, weighting):
  variables, batch = embeddings()
  term, _ = loss(
    variables,
    batch,
    margin=0.3,
    negative_weighting=weighting,
    hard_negative_rate=0.4,
    diagonal=diagonal,
  )
  rate = 0.4 if weighting else None
  total, count = oracle(variables, batch, margin=0.3, rate=rate, diagonal=diagonal)
  assert float(term.total) == pytest.approx(total, rel=1e-5)
  assert float(term.weight) == count


def test_one_pair_a_row_has_no_weighting_unless_videos_repeat():
  variables, batch = embeddings(pairs=1)
  batch |= {"clips_mask": jnp.ones((5, 1), bool)}
  batch |= {"narration_mask": jnp.ones((5, 1, 2), bool)}
  total, _ = oracle(variables, batch, margin=0.1, rate=0.5)
  flat = {k: x[:, 0] for k, x in variables.items()}
  one = {k: batch[k] for k in ("example_id", "group_id", "example_mask")}
  one |= {"text_ids": jnp.ones((5, 2), jnp.int32), "text_mask": jnp.ones((5, 2), bool)}
  one |= {"clips_mask": jnp.ones((5, 3), bool)}  # a clip of three seconds
  term, _ = loss(flat, one)
  assert float(term.total) == pytest.approx(total, rel=1e-5)
  del one["group_id"]
  term, _ = loss(flat, one)
  plain, _ = loss(flat, one, negative_weighting=False)
  assert float(term.total) == float(plain.total) != pytest.approx(total, rel=1e-3)


def test_masked_pairs_have_no_gradient_and_an_empty_batch_none_at_all():
  variables, batch = embeddings()
  value = lambda v, b: loss(v, b)[0].value
  slope = jax.jit(jax.grad(value))
  grads = slope(variables, batch)
  where = batch["clips_mask"] & batch["narration_mask"].any(-1)
  where &= batch["example_mask"][:, None]
  for x in grads.values():
    assert np.isfinite(x).all()
    assert not np.asarray(x)[~np.asarray(where)].any()
    assert np.asarray(x)[np.asarray(where)].any()
  wild = {k: jnp.where(where[..., None], x, 1e6) for k, x in variables.items()}
  assert float(value(wild, batch)) == float(value(variables, batch))
  empty = batch | {"example_mask": jnp.zeros(5, bool)}
  assert float(value(variables, empty)) == 0
  assert not any(np.asarray(x).any() for x in slope(variables, empty).values())


def test_accuracy_wants_the_own_text_above_all():
  variables, batch = embeddings()
  same = {"clips": variables["clips"], "text": variables["clips"] * 50}
  _, found = loss(
    {k: x / np.linalg.norm(x, axis=-1, keepdims=True) for k, x in same.items()}, batch
  )
  assert float(found.value) == 1
  collapsed = {k: np.ones_like(x) for k, x in variables.items()}
  assert float(loss(collapsed, batch)[1].value) == 0


def test_sides_that_are_no_pairs_are_refused():
  variables, batch = embeddings()
  variables["text"] = variables["text"][:, :2]
  with pytest.raises(ValueError, match="no pairs"):
    loss(variables, batch)
  assert ranking.max_margin.global_batch


@pytest.mark.multidevice
def test_the_batch_is_global():
  variables, batch = embeddings(rows=4)
  batch = batch | {"group_id": jnp.array([0, 1, 1, 2], jnp.int32)}
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  term = jax.jit(lambda v, b: loss(v, b)[0])(*jax.device_put((variables, batch), split))
  total, count = oracle(variables, batch, margin=0.1, rate=0.5)
  assert float(term.total) == pytest.approx(total, rel=1e-5)
  assert float(term.weight) == count


def test_the_only_candidate_of_a_clip_is_its_text_and_cosines_take_off_norms():
  variables, batch = embeddings(pairs=1)
  batch |= {"clips_mask": jnp.ones((5, 1), bool)}
  batch |= {"narration_mask": jnp.ones((5, 1, 2), bool)}
  want = loss(variables, batch)[0].value
  clip = {"clips": variables["clips"][:, 0], "text": variables["text"]}
  assert float(loss(clip, batch)[0].value) == pytest.approx(float(want), rel=1e-6)
  unit = {k: x / np.linalg.norm(x, axis=-1, keepdims=True) for k, x in clip.items()}
  given = dict(streams=("clips", "text"), normalise=True)
  cosines = lambda v: ranking.max_margin(apply, v, batch, jax.random.key(0), **given)
  value = lambda v: float(jax.jit(lambda v: cosines(v)[0]["ranking"].value)(v))
  want = float(loss(unit, batch)[0].value)
  assert value(clip) == pytest.approx(want, rel=1e-5)
  assert value(jax.tree.map(lambda x: 3 * x, clip)) == pytest.approx(want, rel=1e-5)
