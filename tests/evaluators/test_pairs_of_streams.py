"""Held-out pairs, graded retrieval and places of sounds, against loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from tests.reference import pictures_and_sounds as reference
from vlp_jax.evaluators import correspondence, ndcg, pairs, sounding_object


def batches(rows, size=4, **keys):
  """Rows in batches; the last is filled up. All have picture and sound."""
  at = np.arange(rows)
  full = {
    "example_id": at,
    "group_id": at,
    "video_mask": np.ones((rows, 3), bool),
    "audio_mask": np.ones((rows, 5), bool),
    "example_mask": np.ones(rows, bool),
  } | keys
  out = []
  for start in range(0, rows, size):
    rows_of = np.minimum(np.arange(start, start + size), rows - 1)
    one = {k: jnp.asarray(x[rows_of]) for k, x in full.items()}
    out.append(one | {"example_mask": jnp.arange(start, start + size) < rows})
  return out


def model(logits_of):
  """apply of a model whose embeddings are looked up and whose scores are a function."""

  def apply(variables, batch, *, rng=None, train=False, method=None):
    if method == "score":
      return logits_of(batch["video_embed"], batch["audio_embed"]), {}
    at = batch["example_id"]
    return {f"{k}_embed": variables[k][at] for k in ("video", "audio")}, {}

  return apply


def tables(rows, width=3, seed=0):
  rng = np.random.default_rng(seed)
  return {k: rng.normal(size=(rows, width)).astype("f4") for k in ("video", "audio")}


product = model(lambda v, a: {"match_logits": (v * a).sum(-1)})


def found(evaluator, variables):
  return dict(evaluator.run(variables))


# ----- correspondence


def test_accuracy_by_hand_and_for_any_batch():
  variables = tables(11)
  group = np.array([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8])
  seen = []
  for size in (4, 11):
    evaluator = correspondence.Evaluator(
      product, batches(11, size, group_id=group), chunk=size
    )
    seen.append(found(evaluator, variables))
  assert seen[0] == seen[1]
  partner, some = pairs.others(group)
  assert some.all()
  assert sorted(partner) == list(range(11))
  assert (group[partner] != group).all()
  v, a = variables["video"], variables["audio"]
  right, wrong = (v * a).sum(1), (v * a[partner]).sum(1)
  want = np.mean(np.concatenate([right > 0, wrong < 0]))
  assert seen[0]["accuracy"].value == pytest.approx(want)
  assert seen[0]["accuracy"].n == 22
  assert seen[0]["accuracy"].chance == 0.5
  assert seen[0]["two_way_accuracy"].value == pytest.approx(np.mean(right > wrong))


def test_logits_of_no_and_yes_and_absent_streams():
  variables = tables(6)
  two = model(
    lambda v, a: {"match_logits": jnp.stack([0 * v[:, 0], (v * a).sum(-1)], 1)}
  )
  given = batches(6)
  want = found(correspondence.Evaluator(product, given), variables)
  assert found(correspondence.Evaluator(two, given), variables) == want
  heard = np.ones((6, 5), bool)
  heard[2] = False
  got = found(
    correspondence.Evaluator(product, batches(6, audio_mask=heard)), variables
  )
  assert got["two_way_accuracy"].n == 5


def test_a_collapsed_model_is_never_right():
  same = {k: np.ones((6, 3), np.float32) for k in ("video", "audio")}
  nothing = model(lambda v, a: {"match_logits": 0 * v[:, 0]})
  got = found(correspondence.Evaluator(nothing, batches(6)), same)
  assert got["accuracy"].value == got["two_way_accuracy"].value == 0


def test_hard_pairs_are_the_other_end_of_the_clip():
  variables, group = tables(8), np.repeat([3, 1, 5, 2], 2)
  given = batches(8, group_id=group)
  got = found(correspondence.Evaluator(product, given, negatives="hard"), variables)
  v, a = variables["video"], variables["audio"]
  wrong = (v * a[np.arange(8) ^ 1]).sum(1)
  want = np.mean((v * a).sum(1) > wrong)
  assert got["two_way_accuracy"].value == pytest.approx(want)
  with pytest.raises(ValueError, match="windows=2"):
    found(correspondence.Evaluator(product, batches(8), negatives="hard"), variables)
  with pytest.raises(ValueError, match="'harder'"):
    correspondence.Evaluator(product, given, negatives="harder")


def test_rows_of_one_large_group_find_nobody():
  group = np.array([0, 0, 0, 0, 1])
  partner, some = pairs.others(group)
  assert some.sum() == 2
  assert (group[partner[some]] != group[some]).all()


# ----- nDCG


@pytest.mark.parametrize("overlap", ndcg.OVERLAPS)
@pytest.mark.parametrize("keep_own", [False, True])
def test_ndcg_is_that_of_loops(overlap, keep_own):
  rng, rows, k = np.random.default_rng(1), 13, 5
  variables = tables(rows)
  variables["audio"][4] = variables["audio"][7]  # a tie
  label = (rng.uniform(size=(rows, 6)) < 0.3).astype(np.float32)
  label[2] = 0  # shares nothing
  given = batches(rows, 5, label=label)
  args = dict(k=k, overlap=overlap, keep_own=keep_own)
  got = found(ndcg.Evaluator(product, given, chunk=4, **args), variables)
  assert set(got) == {f"{way}_ndcg@5" for way in ndcg.WAYS}
  sets = [set(np.flatnonzero(x)) for x in label]

  def relevance(i, j):
    shared = len(sets[i] & sets[j])
    return shared if overlap == "count" else shared / max(len(sets[i] | sets[j]), 1)

  unit = {s: x / np.linalg.norm(x, axis=1, keepdims=True) for s, x in variables.items()}
  of = {"v": unit["video"].astype(float), "a": unit["audio"].astype(float)}
  for way in ndcg.WAYS:
    own = keep_own and way in ("v2a", "a2v")
    scores = of[way[0]] @ of[way[2]].T
    values = [
      reference.ndcg(
        scores[i], [relevance(i, j) for j in range(rows)], None if own else i, k
      )
      for i in range(rows)
    ]
    values = [v for v in values if v is not None]
    assert got[f"{way}_ndcg@5"].value == pytest.approx(np.mean(values))
    assert got[f"{way}_ndcg@5"].n == len(values)


def test_ndcg_agrees_with_scikit_learn_and_chance_with_random_orders():
  rng = np.random.default_rng(2)
  scores, relevance = (
    rng.normal(size=(9, 20)),
    rng.integers(0, 4, (9, 20)).astype(float),
  )
  listed = np.ones((9, 20), bool)
  value, chance = ndcg.ndcg(scores, relevance, listed, 6)
  want = [
    sk.ndcg_score(r[None], s[None], k=6) for r, s in zip(relevance, scores, strict=True)
  ]
  np.testing.assert_allclose(value, want)
  draws = [
    ndcg.ndcg(rng.normal(size=(9, 20)), relevance, listed, 6)[0] for _ in range(600)
  ]
  np.testing.assert_allclose(np.mean(draws, axis=0), chance, atol=0.03)


def test_single_classes_and_windows():
  variables = tables(8)
  shape, colour = (
    np.array([0, 0, 1, 1, 0, 0, 2, 2]),
    np.array([1, 1, 0, 0, -1, -1, 1, 1]),
  )
  given = batches(
    8, group_id=np.repeat(range(4), 2), label_shape=shape, label_colour=colour
  )
  got = found(ndcg.Evaluator(product, given, labels=("shape", "colour")), variables)
  means = {s: x.reshape(4, 2, 3).astype(float).mean(1) for s, x in variables.items()}
  unit = {s: x / np.linalg.norm(x, axis=1, keepdims=True) for s, x in means.items()}
  shared = np.array([[2, 0, 1, 1], [0, 2, 0, 0], [1, 0, 1, 0], [1, 0, 0, 2]])
  scores = unit["video"] @ unit["audio"].T
  values = [reference.ndcg(scores[i], shared[i], i, 30) for i in (0, 2, 3)]
  assert got["v2a_ndcg@30"].value == pytest.approx(np.mean(values))
  assert got["v2a_ndcg@30"].n == 3  # the second shares nothing


# ----- places


def maps(batch):
  v, a = batch["video_embed"], batch["audio_embed"]
  return {"location_logits": (v * a[:, None]).reshape(-1, 2, 3)}


def places_model(variables, batch, *, rng=None, train=False, method=None):
  if method == "score":
    return maps(batch), {}
  at = batch["example_id"]
  return {
    "video_embed": variables["video"][at],
    "audio_embed": variables["audio"][at],
  }, {}


def test_peaks_in_boxes():
  video, rows = np.zeros((6, 6), np.float32), 6
  video[[0, 1, 2, 5], [0, 5, 2, 1]] = 1.0  # rows 3 and 4 are flat
  box = np.full((rows, 3, 4), -1.0, np.float32)
  box[0, 1] = [0.0, 0.0, 0.4, 0.4]  # hit
  box[1, 1] = [0.0, 0.0, 0.6, 1.0]  # missed, holds the middle
  box[2, 1] = [0.5, 0.0, 1.0, 0.5]  # hit
  box[3, 1] = [0.0, 0.0, 1.0, 1.0]  # flat: missed
  box[4, 1] = [0.5, 0.5, 0.5, 1.0]  # not in the picture
  box[:, 0] = box[:, 2] = [0.0, 0.0, 1.0, 1.0]  # frames that are not seen
  # Row 5 has no box. A negative sound turns a map over.
  variables = {"video": jnp.array(video), "audio": jnp.array([1.0, 1, 1, 1, 1, -1])}
  given = batches(rows, label_box=box)
  evaluator = sounding_object.Evaluator(
    places_model, given, outputs=("video_embed", "audio_embed"), num_examples=3
  )
  got = found(evaluator, variables)
  assert got["peak_in_box"].value == 2 / 4
  assert got["peak_in_box"].n == 4
  inside = [1, 4, 2, 6]  # of six places
  assert got["peak_in_box"].chance == pytest.approx(np.mean(inside) / 6)
  assert got["centre_in_box"].value == pytest.approx(3 / 4)
  partner, _ = pairs.others(np.arange(6))
  turned = [i for i in range(4) if partner[i] == 5]
  assert got["other_sound_in_box"].value == np.mean(
    [i in (0, 2) for i in range(4)]
  ) - sum(0.25 for i in turned if i in (0, 2)) + sum(0.25 for i in turned if i == 1)
  assert [e["example_id"] for e in evaluator.examples] == [0, 1, 3]
  assert [e["right"] for e in evaluator.examples] == [True, False, False]
  assert evaluator.examples[1]["peak"] == (pytest.approx(5 / 6), 0.75)
  assert all(e["frame"] == 1 for e in evaluator.examples)
  assert evaluator.examples[0]["map"].shape == (2, 3)


def test_no_box_is_an_error():
  given = batches(4, label_box=np.full((4, 3, 4), -1.0, np.float32))
  evaluator = sounding_object.Evaluator(
    places_model, given, outputs=("video_embed", "audio_embed")
  )
  with pytest.raises(ValueError, match="label_box"):
    found(evaluator, {"video": jnp.ones((4, 6)), "audio": jnp.ones(4)})
