import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.reference import transport as reference
from vlp_jax.objectives import match

KEY = jax.random.key(3)
ROWS, L, R, D = 8, 3, 4, 5


def batch(rows=ROWS, groups=None):
  rng = np.random.default_rng(0)
  own = np.arange(rows)[:, None, None]
  out = {
    "text_ids": np.ones((rows, L), np.int32),
    "text_mask": np.arange(L) < rng.integers(1, L + 1, (rows, 1)),
    "regions_features": np.broadcast_to(own, (rows, R, D)).astype(np.float32),
    "regions_boxes": np.broadcast_to(own, (rows, R, 7)).astype(np.float32),
    "regions_mask": np.arange(R) < rng.integers(1, R + 1, (rows, 1)),
    "example_id": np.arange(rows, dtype=np.int32),
    "group_id": np.arange(rows) // 2 if groups is None else np.asarray(groups),
  }
  out["group_id"] = out["group_id"].astype(np.int32)
  return {k: jnp.asarray(x) for k, x in out.items()}


def apply(variables, batch, *, rng=None, train=False, method=None):
  """States that follow from the ids, logits from a parameter."""
  w = variables["params"]["w"]
  image = batch["regions_features"]
  place = jnp.arange(D) + 1.0
  text = jnp.sin(batch["example_id"][:, None, None] + jnp.arange(L)[:, None] * place)
  regions = jnp.cos(image * place + jnp.arange(R)[:, None] * w)
  logits = jnp.stack([image[:, 0, 0] * 0.1, w * jnp.ones(len(image))], axis=-1)
  text = text * batch["text_mask"][..., None]
  regions = regions * batch["regions_mask"][..., None]
  return {"text": text, "regions": regions, "itm_logits": logits}, {}


VARIABLES = {"params": {"w": jnp.float32(0.4)}}
swap = jax.jit(match.swap_pairs, static_argnames="swapped")


@functools.partial(jax.jit, static_argnames=("wra_on_negatives", "negatives"))
def itm(variables, one, **hyper):
  return match.itm(apply, variables, one, KEY, **hyper)[:2]


def source(out):
  return np.asarray(out["regions_features"][:, 0, 0]).astype(int)


def test_negatives_are_other_images_half_the_time():
  one = batch()
  negatives, taken = 0, np.zeros((ROWS, ROWS))
  for step in range(60):
    out = swap(one, jax.random.fold_in(KEY, step))
    came, label = source(out), np.asarray(out["match"])
    group = np.asarray(one["group_id"])
    assert (label[came == np.arange(ROWS)] == 1).all()
    assert (group[came] != group)[label == 0].all()
    assert (np.asarray(out["regions_boxes"][:, 0, 0]) == came).all()
    assert (
      np.asarray(out["regions_mask"]) == np.asarray(one["regions_mask"])[came]
    ).all()
    negatives += (label == 0).sum()
    np.add.at(taken, (np.arange(ROWS)[label == 0], came[label == 0]), 1)
  n = 60 * ROWS
  assert abs(negatives - n / 2) < 3 * np.sqrt(n / 4)
  # Every row of another image is taken at times.
  other = np.asarray(one["group_id"])[:, None] != np.asarray(one["group_id"])
  assert (taken[other] > 0).all()


def test_rows_without_another_image_stay_positive():
  alone = swap(batch(groups=np.zeros(ROWS)), KEY)
  assert (alone["match"] == 1).all()
  assert (source(alone) == np.arange(ROWS)).all()
  # Padding rows and rows without regions are nobody's negative.
  one = batch()
  one["example_mask"] = jnp.arange(ROWS) < 6
  one["regions_mask"] = one["regions_mask"].at[2].set(False)
  for step in range(20):
    out = swap(one, jax.random.fold_in(KEY, step))
    moved = source(out)[np.asarray(out["match"]) == 0]
    assert not np.isin(moved, [2, 6, 7]).any()
    assert (np.asarray(out["match"])[[2, 6, 7]] == 1).all()


@pytest.mark.parametrize("swapped", ["regions", "text"])
def test_fuse_index_follows_the_new_pairs(swapped):
  one = batch()
  one["fuse_index"] = match.compact([one["text_mask"], one["regions_mask"]], 5)
  out = swap(one, KEY, swapped=swapped)
  text, regions = np.asarray(out["text_mask"]), np.asarray(out["regions_mask"])
  for row, index in enumerate(np.asarray(out["fuse_index"])):
    want = [*np.flatnonzero(text[row]), *(L + np.flatnonzero(regions[row]))]
    assert index[index >= 0].tolist() == want
  assert (text.sum(1) + regions.sum(1) <= 5).all()
  negative = np.asarray(out["match"]) == 0
  assert negative.any()
  assert ((source(out) != np.arange(ROWS)) == (negative & (swapped == "regions"))).all()
  with pytest.raises(ValueError, match="swapped"):
    match.swap_pairs(one, KEY, swapped="image")


def test_given_and_known_labels():
  one = batch()
  assert match.swap_pairs(one, KEY, negatives="given") is one
  with pytest.raises(KeyError, match="needs match"):
    match.itm(apply, VARIABLES, one, KEY, negatives="given")
  with pytest.raises(ValueError, match="negatives"):
    match.swap_pairs(one, KEY, negatives="hard")
  wrong = swap(one | {"match": jnp.zeros(ROWS, jnp.int32)}, KEY)
  assert (wrong["match"] == 0).all()


@pytest.mark.parametrize("on_negatives", [True, False])
def test_loss_and_alignment_agree_with_the_oracle(on_negatives):
  one = swap(batch(), KEY)
  terms, aux = itm(VARIABLES, one, wra_on_negatives=on_negatives)
  out = {k: np.asarray(x) for k, x in jax.jit(apply)(VARIABLES, one)[0].items()}
  label = np.asarray(one["match"])
  text, regions = np.asarray(one["text_mask"]), np.asarray(one["regions_mask"])
  far = [
    reference.distance(out["text"][i][text[i]], out["regions"][i][regions[i]])
    for i in range(ROWS)
  ]
  sign = np.where(label == 1, 1, -1 if on_negatives else 0)
  want = 0.1 * (sign * far).sum() / ROWS
  np.testing.assert_allclose(terms["wra"].value, want, atol=1e-5)
  xent = optax.softmax_cross_entropy_with_integer_labels(out["itm_logits"], label)
  np.testing.assert_allclose(terms["itm"].value, xent.mean(), rtol=1e-5)
  far = np.array(far)
  np.testing.assert_allclose(aux["wra/positive"].value, far[label == 1].mean(), 1e-4)
  np.testing.assert_allclose(aux["wra/negative"].value, far[label == 0].mean(), 1e-4)


def test_prepared_batches_split_into_microbatches():
  assert match.itm.prepare is match.swap_pairs  # what the step calls
  whole = swap(batch(), KEY)
  terms = itm(VARIABLES, whole)[0]
  cut = [{k: x[i : i + 2] for k, x in whole.items()} for i in range(0, ROWS, 2)]
  parts = [itm(VARIABLES, one)[0] for one in cut]
  for name in terms:
    for field in ("total", "weight"):
      got = sum(getattr(p[name], field) for p in parts)
      np.testing.assert_allclose(got, getattr(terms[name], field), rtol=1e-5, atol=1e-6)
  again = itm(VARIABLES, batch())[0]  # not prepared: the same draw
  np.testing.assert_allclose(again["itm"].total, terms["itm"].total)


def test_empty_batch_is_zero():
  one = batch() | {"example_mask": jnp.zeros(ROWS, bool)}

  @jax.jit
  def loss(params):
    terms = match.itm(apply, {"params": params}, one, KEY)[0]
    return sum(t.value for t in terms.values())

  value, grad = jax.value_and_grad(loss)(VARIABLES["params"])
  assert value == 0
  assert grad["w"] == 0


def test_hinge():
  got = match.hinge(jnp.array([[0.0]]), jnp.array([[0.0, 50.0, -50.0]]))
  np.testing.assert_allclose(got, [[0.2, 0.7, 0.0]], atol=1e-6)
