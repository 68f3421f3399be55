"""Frame accuracy, MAP@K, zero-shot actions, multiple choice, paragraphs."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import moments as reference
from vlp_jax.evaluators import multiple_choice, paragraphs, retrieval, segments


def apply(variables, batch, *, rng=None, train=False, method=None):
  """Rows of tables, by example_id; the text table by the first word if there is one."""
  if method is None:
    return {"logits": variables["logits"][batch["example_id"]]}, {}
  name = {"encode_text": "text", "encode_video": "video"}[method]
  at = batch["example_id"]
  if name == "text" and "narration_ids" in batch:
    at = batch["narration_ids"][..., 0]
  return {f"{name}_embed": variables[name][at]}, {}


def rows(size, total, **keys):
  out = []
  for start in range(0, total, size):
    at = np.arange(start, start + size)
    ids = np.where(at < total, at, 0).astype(np.int32)
    one = {"example_id": ids} | {k: np.asarray(x)[ids] for k, x in keys.items()}
    one = {k: x.astype(np.int32) if x.dtype == int else x for k, x in one.items()}
    out.append(
      {k: jnp.asarray(x) for k, x in (one | {"example_mask": at < total}).items()}
    )
  return out


def test_frame_accuracy_counts_known_real_seconds():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5, 4, 3)).astype(np.float32)
  label = rng.integers(-1, 3, (5, 4))
  mask = np.arange(4) < rng.integers(1, 5, (5, 1))
  logits[0, 0] = 1.0  # a tie misses
  label[0, 0] = 1
  make = lambda size: segments.Evaluator(
    apply, rows(size, 5, label=label, clips_mask=mask)
  )
  found = dict(make(2).run({"logits": logits}))
  hit = total = step_hit = step_total = 0
  for b, t in itertools.product(range(5), range(4)):
    if mask[b, t] and label[b, t] >= 0:
      own, others = logits[b, t, label[b, t]], np.delete(logits[b, t], label[b, t])
      hit += own > others.max()
      total += 1
      step_hit += (own > others.max()) * (label[b, t] > 0)
      step_total += label[b, t] > 0
  assert found["frame_accuracy"].value == pytest.approx(hit / total)
  assert found["frame_accuracy"].n == total
  assert found["step_accuracy"].value == pytest.approx(step_hit / step_total)
  known = label[mask & (label >= 0)]
  assert found["frame_accuracy"].chance == np.bincount(known).max() / total
  assert str(dict(make(5).run({"logits": logits}))) == str(found)
  nan = np.full_like(logits, np.nan)
  assert dict(make(5).run({"logits": nan}))["frame_accuracy"].value == 0


def test_average_precision_by_hand_and_by_walking():
  scores = np.array([0.9, 0.8, 0.7, 0.6])
  good = np.array([True, False, True, False])
  assert segments.average_precision(scores, good) == pytest.approx((1 + 2 / 3) / 2)
  assert segments.average_precision(scores, good, first=2) == pytest.approx(1 / 2)
  assert segments.average_precision(np.ones(4), good) == pytest.approx(
    (1 / 3 + 2 / 4) / 2
  )
  rng = np.random.default_rng(1)
  for _ in range(5):
    scores, good = rng.integers(0, 5, 12).astype(float), rng.random(12) < 0.4
    good[0] = True
    want = reference.average_precision(scores.tolist(), good.tolist())
    assert segments.average_precision(scores, good) == pytest.approx(want)
  nan = np.array([np.nan, 0.1, 0.0])
  assert segments.average_precision(
    nan, np.array([True, True, False])
  ) == pytest.approx((1 / 2) / 2)


@pytest.mark.parametrize(
  ("size", "positives", "first"), [(5, 2, None), (5, 3, 2), (1, 1, 9)]
)
def test_chance_precision_is_the_mean_over_all_orders(size, positives, first):
  values = [
    segments.average_precision(
      -np.arange(size), np.isin(np.arange(size), at), first=first
    )
    for at in itertools.combinations(range(size), positives)
  ]
  assert segments.chance_precision(size, positives, first) == pytest.approx(
    np.mean(values)
  )


def test_map_leaves_out_what_is_not_rated():
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(11, 4)).astype(np.float32)
  label = rng.integers(-1, 2, (11, 4))
  label[:, 3] = 0  # a class without a positive segment
  make = lambda size: segments.MeanAveragePrecision(apply, rows(size, 11, label=label))
  found = dict(make(4).run({"logits": logits}))["map"]
  want = []
  for c in range(3):
    keep = label[:, c] >= 0
    want.append(
      reference.average_precision(logits[keep, c].tolist(), label[keep, c].tolist())
    )
  assert found.value == pytest.approx(np.mean(want))
  assert found.n == 3
  assert str(dict(make(11).run({"logits": logits}))["map"]) == str(found)


def test_zero_shot_actions_rank_clips_by_words():
  rng = np.random.default_rng(3)
  text = rng.normal(size=(6, 4)).astype(np.float32)
  video = rng.normal(size=(7, 4)).astype(np.float32)
  of = np.array([2, 0, 1, 0, 2, 1])  # two templates a class
  group = np.array([4, 4, 1, 0, 2, 2, 9])
  label = np.array(
    [[1, 0, 0]] * 2 + [[0, 1, 0], [-1, 0, 1]] + [[0, 1, -1]] * 2 + [[1, 0, 1]]
  )
  make = lambda size: segments.ZeroShot(
    apply, rows(size, 6, label_class=of), rows(size, 7, label=label, group_id=group)
  )
  found = dict(make(4).run({"text": text, "video": video}))
  names = np.stack([text[of == c].mean(0) for c in range(3)]).astype(float)
  clips = [[0, 1], [2], [3], [4, 5], [6]]
  scores = np.stack([video[c].mean(0) for c in clips]).astype(float) @ names.T
  labels = np.stack([label[c[0]] for c in clips])
  want = []
  for c in range(3):
    keep = labels[:, c] >= 0
    want.append(
      reference.average_precision(scores[keep, c].tolist(), labels[keep, c].tolist())
    )
  assert found["map"].value == pytest.approx(np.mean(want))
  single = [i for i in range(5) if (labels[i] > 0).sum() == 1]
  right = [scores[i].argmax() == labels[i].argmax() for i in single]
  assert found["accuracy@1"].value == np.mean(right)
  assert found["accuracy@1"].n == len(single) == 4
  assert (
    dict(make(7).run({"text": text, "video": video}))["map"].value == found["map"].value
  )
  flat = dict(make(7).run({"text": np.ones_like(text), "video": np.ones_like(video)}))
  assert flat["accuracy@1"].value == 0


def test_a_video_weighs_one_in_each_group():
  """Against loops over thresholds, by weights and by draws."""
  rng = np.random.default_rng(6)
  n, classes = 40, 3
  scores = rng.integers(0, 9, (n, classes)).astype(float)  # with ties
  labels = rng.integers(-1, 2, (n, classes))
  hard = (rng.random((n, classes)) < 0.3) & (labels == 0)
  video = rng.integers(0, 6, n)

  def precision(rows, weight, c):
    """sum over thresholds of precision x gain in recall."""
    total, out, last = sum(weight[i] for i in rows if labels[i, c] > 0), 0.0, 0.0
    for t in sorted({scores[i, c] for i in rows}, reverse=True):
      seen = [i for i in rows if scores[i, c] >= t]
      true = sum(weight[i] for i in seen if labels[i, c] > 0)
      out += (true - last) / total * true / sum(weight[i] for i in seen)
      last = true
    return out

  want = []
  for c in range(classes):
    rows = [i for i in range(n) if labels[i, c] >= 0]
    group = {i: (labels[i, c], hard[i, c], video[i]) for i in rows}
    each = list(group.values())
    want.append(precision(rows, {i: 1 / each.count(group[i]) for i in rows}, c))
  got = segments.video_precisions(scores, labels, hard, video)
  np.testing.assert_allclose(got, want, rtol=1e-9)
  alone = np.arange(n)  # a clip a video: nothing to draw, and no weights
  drawn = segments.video_precisions(scores, labels, hard, alone, samples=3)
  plain = [
    precision([i for i in range(n) if labels[i, c] >= 0], np.ones(n), c)
    for c in range(classes)
  ]
  np.testing.assert_allclose(drawn, plain, rtol=1e-9)
  many = segments.video_precisions(scores, labels, hard, video, samples=400)
  few = segments.video_precisions(scores, labels, hard, video, samples=400, seed=1)
  assert (many != few).any()
  np.testing.assert_allclose(many, few, atol=0.05)


def choices(size, num=6, group=None, label=None):
  rng = np.random.default_rng(4)
  ids = rng.permutation(num * 3).reshape(num, 3, 1).astype(np.int32)
  mask = np.ones((num, 3, 1), bool)
  mask[0, 2] = False
  label = np.array([0, 1, 2, 0, 1, -1]) if label is None else label
  if group is not None:
    ids, mask = ids[group], mask[group]
    label = np.array(label)[group]
  keys = dict(
    choice_ids=ids, choice_mask=mask, label=label, video_mask=np.ones((num, 2), bool)
  )
  if group is not None:
    keys["group_id"] = np.array(group)
  return rows(size, num, **keys), ids[..., 0], mask[..., 0], np.asarray(label)


def test_multiple_choice_by_loops():
  rng = np.random.default_rng(5)
  variables = {
    "text": rng.normal(size=(18, 4)).astype(np.float32),
    "video": rng.normal(size=(6, 4)).astype(np.float32),
  }
  batches, ids, mask, label = choices(4)
  run = lambda v, b: dict(multiple_choice.Evaluator(apply, b).run(v))["accuracy"]
  found = run(variables, batches)
  hits = []
  for i in range(5):  # the label of the last row is not known
    s = variables["text"][ids[i]].astype(float) @ variables["video"][i].astype(float)
    s[~mask[i]] = -np.inf
    hits.append(s.argmax() == label[i])
  assert found.value == np.mean(hits)
  assert found.n == 5
  assert found.chance == pytest.approx((1 / 2 + 4 / 3) / 5)
  assert str(run(variables, choices(1)[0])) == str(found)
  flat = {k: np.ones_like(x) for k, x in variables.items()}
  assert run(flat, batches).value == 0
  nan = variables | {"video": np.full_like(variables["video"], np.nan)}
  assert run(nan, batches).value == 0
  with pytest.raises(ValueError, match="has no word"):
    run(variables, choices(4, label=[2, 0, 0, 0, 0, 0])[0])
  with pytest.raises(ValueError, match="of 3"):
    run(variables, choices(4, label=[3, 0, 0, 0, 0, 0])[0])


def test_windows_of_a_choice_are_averaged():
  rng = np.random.default_rng(6)
  variables = {
    "text": rng.normal(size=(18, 4)).astype(np.float32),
    "video": rng.normal(size=(6, 4)).astype(np.float32),
  }
  group = [1, 2, 1, 2, 3, 1]
  batches, ids, _, label = choices(4, group=group)
  found = dict(multiple_choice.Evaluator(apply, batches).run(variables))["accuracy"]
  hits = []
  for g in (1, 2, 3):
    own = [i for i in range(6) if group[i] == g]
    video = variables["video"][own].astype(float).mean(0)
    hits.append((variables["text"][ids[own[0]]] @ video).argmax() == label[own[0]])
  assert found.value == np.mean(hits)
  assert found.n == 3


def test_paragraphs_are_means_of_sentences():
  rng = np.random.default_rng(7)
  text = rng.normal(size=(9, 4)).astype(np.float32)
  video = rng.normal(size=(4, 4)).astype(np.float32)
  of = np.array([2, 0, 1, 0, 2, 1, 3, 3, 3])
  run = lambda size: dict(
    paragraphs.Evaluator(
      apply, rows(size, 9, relevance=of), rows(size, 4), ks=(1, 2), normalise=True
    ).run({"text": text, "video": video})
  )
  found = run(4)
  whole = np.stack([text[of == v].mean(0) for v in range(4)])
  plain = retrieval.Evaluator(apply, rows(4, 4), rows(4, 4), ks=(1, 2), normalise=True)
  want = dict(plain.run({"text": whole, "video": video}))
  assert {k: r.value for k, r in found.items()} == {k: r.value for k, r in want.items()}
  assert found["t2v_recall@1"].n == 4
  assert str(run(9)) == str(found)
