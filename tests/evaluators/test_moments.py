"""Moments: published suppression, TVR and DiDeMo metrics against loops, ties."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import moments as reference
from vlp_jax.evaluators import moments, spans

WIDTH = 5


def apply(variables, batch, *, rng=None, train=False, method=None):
  name = {"encode_text": "text", "encode_clips": "clips"}[method]
  return {f"{name}_embed": variables[name][batch["example_id"]]}, {}


def rows(size, total, **keys):
  out = []
  for start in range(0, total, size):
    at = np.arange(start, start + size)
    ids = np.where(at < total, at, 0).astype(np.int32)
    one = {"example_id": ids} | {k: x[ids] for k, x in keys.items()}
    one |= {"example_mask": at < total}
    out.append({k: jnp.asarray(x) for k, x in one.items()})
  return out


def test_published_suppression():
  given = [[0, 3], [1.5, 3], [0, 4.5], [6, 9], [6, 7.5], [3, 6]]
  kept = spans.suppress(np.array(given))
  want = [[0, 3], [1.5, 3], [6, 9], [6, 7.5], [3, 6]]  # an overlap of just 1/2 stays
  assert np.array(given)[kept].tolist() == want
  assert len(spans.suppress(np.array(given), keep=2)) == 2
  rng = np.random.default_rng(0)
  many = np.sort(rng.random((40, 2)), axis=1)
  kept = spans.suppress(many, threshold=0.3)
  assert many[kept].tolist() == [
    list(s) for s in reference.suppress(many.tolist(), 0.3)
  ]


def test_overlap_is_over_the_hull():
  a, b = np.array([[0.0, 2], [4, 6], [1, 1]]), np.array([1.0, 3])
  np.testing.assert_allclose(spans.iou(a, b), [1 / 3, 0, 0])
  assert spans.iou(np.array([1.0, 1]), np.array([1.0, 1])) == 0
  assert [len(spans.runs(n)) for n in (1, 5, 6)] == [1, 15, 21]
  assert spans.runs(4, 2, 3).tolist() == [[0, 2], [0, 3], [1, 3], [1, 4], [2, 4]]


TIMES = 1.5 * np.stack([np.arange(6), np.arange(6) + 1], axis=1)
LENGTHS = [6, 4, 5]


def corpus(seed=0, queries=9):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  variables = {"text": draw(queries, WIDTH), "clips": draw(3, 6, WIDTH)}
  of = rng.integers(0, 3, queries).astype(np.int32)
  times = np.full((queries, 2, 2), -1, np.float32)
  for q in range(queries):
    a, b = np.sort(rng.choice(LENGTHS[of[q]] + 1, 2, replace=False))
    times[q, 0] = 1.5 * a, 1.5 * b
  return variables, of, times


def evaluate(variables, of, times, size=4, **hyper):
  mask = np.arange(6) < np.array(LENGTHS)[:, None]
  clock = np.where(mask[..., None], TIMES, 0).astype(np.float32)
  texts = rows(size, len(of), relevance=of, label_times=times)
  videos = rows(2, 3, clips_mask=mask, clips_times=clock)
  hyper = dict(ks=(1, 2, 5), shortest=1, longest=4, num_videos=3) | hyper
  evaluator = moments.Evaluator(apply, texts, videos, **hyper)
  return dict(evaluator.run(variables)), evaluator


def oracle(variables, of, times, threshold, k):
  """(vr, svmr, vcmr) by loops."""
  counts = np.zeros(3)
  for q, text in enumerate(variables["text"].astype(float)):
    sims = [
      text @ variables["clips"][v, : LENGTHS[v]].astype(float).T for v in range(3)
    ]
    best = sorted(range(3), key=lambda v: -max(sims[v]))
    counts[0] += of[q] in best[:k]
    every = []
    for v in range(3):
      found = reference.candidates(sims[v], TIMES, 1, 4)
      score = {span: s for s, span in found}
      kept = reference.suppress([span for _, span in found], 0.5)
      every += [(score[span], v, span) for span in kept]
    every.sort(reverse=True)
    hit = lambda v, span, q=q: (
      v == of[q] and reference.iou(span, times[q, 0]) >= threshold
    )
    mine = [x for x in every if x[1] == of[q]]
    counts[1] += any(hit(v, s) for _, v, s in mine[:k])
    counts[2] += any(hit(v, s) for _, v, s in every[:k])
  return counts / len(of)


def test_recall_of_videos_and_moments_agrees_with_loops(tmp_path):
  given = corpus()
  found, evaluator = evaluate(*given)
  for threshold in (0.5, 0.7):
    for k in (1, 2, 5):
      vr, svmr, vcmr = oracle(*given, threshold, k)
      assert found[f"vr_recall@{k}"].value == pytest.approx(vr)
      assert found[f"svmr_iou{threshold:g}_recall@{k}"].value == pytest.approx(svmr)
      assert found[f"vcmr_iou{threshold:g}_recall@{k}"].value == pytest.approx(vcmr)
  assert found["vr_recall@1"].chance == pytest.approx(1 / 3)
  assert 0 < found["vcmr_iou0.7_recall@1"].chance < found["svmr_iou0.7_recall@1"].chance
  assert str(evaluate(*given, size=1)[0]) == str(found)
  evaluator.write(tmp_path / "made.json")
  made = json.loads((tmp_path / "made.json").read_text())
  assert set(made) == {"VR", "SVMR", "VCMR"}
  video, start, end, score = made["SVMR"][3]["predictions"][0]
  assert (video, made["SVMR"][3]["desc_id"]) == (given[1][3], 3)
  assert 0 <= start < end <= 9
  assert score >= made["SVMR"][3]["predictions"][1][3]


def test_two_annotators_must_agree_where_it_is_asked():
  variables, of, times = corpus(2)
  one, _ = evaluate(variables, of, times)
  times = times.copy()
  times[:, 1] = times[:, 0]
  two, _ = evaluate(variables, of, times, agree=2)
  assert {k: r.value for k, r in one.items()} == {k: r.value for k, r in two.items()}
  times[:, 1] = 50.0, 51.0
  none, _ = evaluate(variables, of, times, agree=2)
  assert none["svmr_iou0.5_recall@5"].value == 0
  with pytest.raises(ValueError, match="agree=3"):
    evaluate(variables, of, times, agree=3)


def test_collapsed_and_broken_models_find_nothing():
  variables, of, times = corpus(3)
  one = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)
  flat = {k: np.broadcast_to(one, x.shape).copy() for k, x in variables.items()}
  found, _ = evaluate(flat, of, times)
  assert found["vr_recall@2"].value == found["vcmr_iou0.5_recall@5"].value == 0
  assert found["svmr_iou0.5_recall@1"].value == 0
  nan = variables | {"clips": np.full_like(variables["clips"], np.nan)}
  found, _ = evaluate(nan, of, times)
  assert all(r.value == 0 for k, r in found.items() if "vr" not in k)
  assert found["vr_recall@2"].value == 0
  with pytest.raises(ValueError, match="not in the set"):
    evaluate(variables, of + 7, times)


def didemo(variables, of, segments, size=3):
  mask = np.arange(6) < np.array([6, 6, 5])[:, None]
  texts = rows(size, len(of), relevance=of, label_segments=segments)
  evaluator = moments.DiDeMo(apply, texts, rows(2, 3, clips_mask=mask))
  return dict(evaluator.run(variables))


def test_didemo_agrees_with_loops_on_real_annotations():
  rows = json.loads(
    helpers.shared("data/annotations/didemo/val_data_first1000.json").read_text()
  )
  rows = [r for r in rows if r["num_segments"] == 6][:12]
  rng = np.random.default_rng(0)
  variables = {
    "text": rng.normal(size=(12, WIDTH)).astype(np.float32),
    "clips": rng.normal(size=(3, 6, WIDTH)).astype(np.float32),
  }
  of = rng.integers(0, 2, 12).astype(np.int32)
  most = max(len(r["times"]) for r in rows)
  segments = np.full((12, most, 2), -1, np.int32)
  for i, r in enumerate(rows):
    segments[i, : len(r["times"])] = r["times"]
  found = didemo(variables, of, segments)
  want = [
    reference.didemo(
      variables["clips"][of[i]].astype(float) @ variables["text"][i].astype(float),
      r["times"],
    )
    for i, r in enumerate(rows)
  ]
  ranks, overlaps = zip(*want, strict=True)
  assert found["rank@1"].value == np.mean(np.array(ranks) <= 1)
  assert found["rank@5"].value == pytest.approx(np.mean(np.array(ranks) <= 5))
  assert found["miou"].value == pytest.approx(np.mean(overlaps))
  assert found["rank@1"].chance < found["rank@5"].chance < 0.5
  assert str(didemo(variables, of, segments, size=12)) == str(found)


def test_didemo_perfect_collapsed_and_bad():
  text = np.eye(3, WIDTH, dtype=np.float32)
  clips = np.zeros((3, 6, WIDTH), np.float32)
  segments = np.full((3, 4, 2), -1, np.int32)
  for i, (a, b) in enumerate([(0, 0), (2, 4), (4, 4)]):
    clips[i, a : b + 1, i] = 1 + 0.1 * np.arange(b - a + 1)[::-1]
    segments[i, :3] = a, b
  of = np.arange(3, dtype=np.int32)
  found = didemo({"text": text, "clips": clips}, of, segments)
  assert found["rank@1"].value == pytest.approx(2 / 3)  # of three clips the best is one
  assert found["rank@5"].value == 1
  same = didemo(
    {"text": np.ones_like(text), "clips": np.ones_like(clips)}, of, segments
  )
  assert same["rank@5"].value == 0
  segments[2, 0] = 5, 5  # that video has five segments
  with pytest.raises(ValueError, match="of a video of 5"):
    didemo({"text": text, "clips": clips}, of, segments)
