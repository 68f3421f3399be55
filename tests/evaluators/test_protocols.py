"""The text-video benchmarks' protocols by `evaluators.retrieval`, in miniature."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.evaluators import retrieval


def apply(variables, batch, *, rng=None, train=False, method=None):
  name = {"encode_text": "text", "encode_video": "video"}[method]
  return {f"{name}_embed": variables[name][batch["example_id"]]}, {}


def batch(**keys):
  keys = {k: np.asarray(x, np.int32) for k, x in keys.items()}
  return [{k: jnp.asarray(x) for k, x in keys.items()}]


def compute_metrics(scores):
  """R@1, R@5, R@10 and MedR of the published scripts: places of the diagonal."""
  ahead = [sum(s > row[i] for s in row) for i, row in enumerate(scores.tolist())]
  recall = [np.mean([a < k for a in ahead]) for k in (1, 5, 10)]
  return [*recall, np.median(ahead) + 1]


def named(found, way="t2v"):
  names = [f"{way}_recall@{k}" for k in (1, 5, 10)] + [f"{way}_median_rank"]
  return [found[name].value for name in names]


def draw(seed, **sizes):
  rng = np.random.default_rng(seed)
  return {k: rng.normal(size=(n, 6)).astype(np.float32) for k, n in sizes.items()}


def test_paired_sets_msrvtt_1k_a_and_lsmdc():
  tables = draw(0, text=40, video=40)
  evaluator = retrieval.Evaluator(
    apply, batch(example_id=range(40)), batch(example_id=range(40))
  )
  found = dict(evaluator.run(tables))
  scores = tables["text"].astype(float) @ tables["video"].astype(float).T
  np.testing.assert_allclose(named(found), compute_metrics(scores))
  np.testing.assert_allclose(named(found, "v2t"), compute_metrics(scores.T))


def test_msrvtt_full_split_every_caption_is_a_query():
  tables = draw(1, text=60, video=12)
  texts = batch(example_id=range(60), relevance=np.repeat(range(12), 5))
  found = dict(
    retrieval.Evaluator(apply, texts, batch(example_id=range(12))).run(tables)
  )
  scores = tables["text"].astype(float) @ tables["video"].astype(float).T
  ahead = [sum(s > row[i // 5] for s in row) for i, row in enumerate(scores.tolist())]
  assert found["t2v_recall@5"].value == pytest.approx(np.mean(np.array(ahead) < 5))
  assert found["t2v_recall@5"].n == 60
  # A video is found by any of its five captions.
  best = scores.reshape(12, 5, 12).max(axis=1).diagonal()
  wrong = [
    sum(s > best[v] for i, s in enumerate(scores[:, v]) if i // 5 != v)
    for v in range(12)
  ]
  assert found["v2t_recall@1"].value == pytest.approx(np.mean(np.array(wrong) < 1))


def test_youcook2_windows_are_averaged_before_the_product():
  tables = draw(2, text=15, video=60)
  order = np.random.default_rng(0).permutation(60)
  video = order // 4  # four windows a clip, in any order
  # example_id says which row of the table: every window is an example of its group.
  texts = batch(
    example_id=range(15),
    relevance=[int(np.flatnonzero(video == v)[0]) for v in range(15)],
  )
  videos = batch(example_id=range(60), group_id=video)
  found = dict(retrieval.Evaluator(apply, texts, videos).run(tables))
  means = np.stack(
    [tables["video"][video == v].astype(float).mean(0) for v in range(15)]
  )
  np.testing.assert_allclose(named(found), compute_metrics(tables["text"] @ means.T))


def test_distractor_clips_make_the_gallery_larger():
  tables = draw(3, text=10, video=30)
  found = dict(
    retrieval.Evaluator(
      apply, batch(example_id=range(10)), batch(example_id=range(30))
    ).run(tables)
  )
  scores = tables["text"].astype(float) @ tables["video"].astype(float).T
  ahead = [sum(s > row[i] for s in row) for i, row in enumerate(scores.tolist())]
  assert found["t2v_median_rank"].value == np.median(ahead) + 1
  assert found["t2v_recall@1"].chance == pytest.approx(1 / 30)
