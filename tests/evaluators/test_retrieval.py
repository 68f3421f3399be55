"""Retrieval against loops over single pairs, on embeddings handed in as a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import retrieval as reference
from vlp_jax.evaluators import collect, ranks, retrieval

WIDTH = 6


def apply(variables, batch, *, rng=None, train=False, method=None):
  """Looks its embedding up: row `example_id` of a table."""
  table = {"encode_text": "text", "encode_video": "video"}[method]
  embed = variables[table][batch["example_id"]]
  return {f"{table}_embed": embed}, {}


def batches(rows, size, **keys):
  """Batches of `size`; the last is filled with padded rows that would win."""
  found = []
  for start in range(0, rows, size):
    ids = np.arange(start, start + size)
    real = ids < rows
    part = {"example_id": np.where(real, ids, 0).astype(np.int32)}
    for k, x in keys.items():
      part[k] = np.asarray(x, np.int32)[part["example_id"]]
    found.append(
      {k: jnp.asarray(x) for k, x in (part | {"example_mask": real}).items()}
    )
  return found


def tables(num_texts, num_videos, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda n: rng.normal(size=(n, WIDTH)).astype(np.float32)
  return {"text": draw(num_texts), "video": draw(num_videos)}


def run(variables, texts, videos, **hyper):
  evaluator = retrieval.Evaluator(apply, texts, videos, **hyper)
  return dict(evaluator.run(variables)), evaluator


def check(found, scores, relevant):
  for name, s, own in (("t2v", scores, relevant), ("v2t", scores.T, relevant.T)):
    for k in (1, 5, 10):
      want = reference.recall(s, own, k)
      assert found[f"{name}_recall@{k}"].value == pytest.approx(want, abs=1e-12)
      chance = np.mean([reference.chance(len(r), r.sum(), k) for r in own])
      assert found[f"{name}_recall@{k}"].chance == pytest.approx(chance, abs=1e-12)
      assert found[f"{name}_recall@{k}"].n == len(s)
    want = reference.median_rank(s, own)
    assert found[f"{name}_median_rank"].value == pytest.approx(want)


@pytest.mark.parametrize("chunk", [3, 2048])
def test_several_captions_agree_with_loops(chunk):
  relevance = np.array([0, 0, 0, 1, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 7])
  variables = tables(15, 8)
  texts = batches(15, 4, relevance=relevance)
  found, _ = run(variables, texts, batches(8, 3), chunk=chunk)
  scores = variables["text"] @ variables["video"].T
  check(found, scores, relevance[:, None] == np.arange(8))


def test_without_relevance_rows_are_pairs_and_batches_do_not_matter():
  variables = tables(12, 12, seed=1)
  found, _ = run(variables, batches(12, 5), batches(12, 7))
  check(found, variables["text"] @ variables["video"].T, np.eye(12, dtype=bool))
  again, _ = run(variables, batches(12, 1), batches(12, 12), chunk=5)
  assert again == found


def test_collapsed_model_scores_zero():
  one = np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)
  variables = {"text": np.tile(one, (53, 1)), "video": np.tile(one / 3, (53, 1))}
  found, _ = run(variables, batches(53, 8), batches(53, 8), chunk=7)
  for name in ("t2v", "v2t"):
    assert found[f"{name}_recall@10"].value == 0
    assert found[f"{name}_median_rank"].value == 53
    assert found[f"{name}_median_rank"].chance == 27
    assert found[f"{name}_recall@10"].chance == pytest.approx(10 / 53)


def test_nan_counts_against_us():
  variables = tables(6, 6, seed=2)
  variables["text"] = variables["video"].copy()
  perfect, _ = run(variables, batches(6, 4), batches(6, 4))
  assert perfect["t2v_recall@1"].value >= 0.5
  variables["video"][2] = np.nan
  variables["text"][4, 0] = np.inf  # inf * 0 and inf - inf are NaN as well
  found, _ = run(variables, batches(6, 4), batches(6, 4))
  with np.errstate(invalid="ignore"):
    scores = variables["text"].astype(np.float64) @ variables["video"].T
  assert np.isnan(scores).any()
  check(found, scores, np.eye(6, dtype=bool))
  assert found["t2v_recall@1"].value == 0  # the NaN video is ahead of every right one
  everything = {k: np.full_like(x, np.nan) for k, x in variables.items()}
  found, _ = run(everything, batches(6, 4), batches(6, 4))
  assert found["t2v_recall@5"].value == found["v2t_recall@5"].value == 0


def test_windows_of_a_clip_are_averaged():
  variables = tables(4, 10, seed=3)
  group = np.array([0, 1, 2, 3, 0, 1, 2, 3, 3, 0])
  relevance = np.array([3, 6, 4, 1])  # any window names its clip
  texts = batches(4, 4, relevance=relevance)
  found, _ = run(variables, texts, batches(10, 4, group_id=group))
  means = np.stack([variables["video"][group == g].mean(0) for g in range(4)])
  check(found, variables["text"] @ means.T, group[relevance][:, None] == np.arange(4))


def test_galleries_are_ranked_apart_and_averaged():
  variables = tables(20, 10, seed=4)
  relevance = np.arange(20) // 2
  gallery = np.array([7, 7, 7, 7, 3, 3, 3, 3, 3, 3])
  texts, videos = batches(20, 6, relevance=relevance), batches(10, 4)
  videos = batches(10, 4, label_gallery=gallery)
  found, _ = run(variables, texts, videos)
  scores = variables["text"] @ variables["video"].T
  own = relevance[:, None] == np.arange(10)
  for k in (1, 5):
    t2v, v2t, chance = [], [], []
    for g in (3, 7):
      rows, columns = gallery[relevance] == g, gallery == g
      s, r = scores[rows][:, columns], own[rows][:, columns]
      t2v.append(reference.recall(s, r, k))
      v2t.append(reference.recall(s.T, r.T, k))
      chance.append(reference.chance(columns.sum(), 1, k))
    assert found[f"t2v_recall@{k}"].value == pytest.approx(np.mean(t2v))
    assert found[f"v2t_recall@{k}"].value == pytest.approx(np.mean(v2t))
    assert found[f"t2v_recall@{k}"].chance == pytest.approx(np.mean(chance))
  assert found["t2v_recall@1"].n == 20
  assert "2 galleries" in found["t2v_recall@1"].protocol


def test_a_query_without_its_item_is_missed_and_told():
  variables = tables(4, 3, seed=5)
  texts = batches(4, 4, relevance=[0, 1, 2, 77])
  found, _ = run(variables, texts, batches(3, 3))
  assert found["t2v_recall@10"].value == 0.75
  assert "1 without" in found["t2v_recall@10"].protocol
  with pytest.raises(ValueError, match="no text names an item"):
    run(variables, batches(4, 4, relevance=[70, 71, 72, 73]), batches(3, 3))


def test_several_right_items_of_one_text():
  variables = tables(5, 9, seed=6)
  relevance = np.array([[0, 1], [2, -1], [3, 4], [5, 6], [7, 8]])
  found, _ = run(variables, batches(5, 2, relevance=relevance), batches(9, 2))
  own = (relevance[:, :, None] == np.arange(9)).any(axis=1)
  check(found, variables["text"] @ variables["video"].T, own)


def test_examples_are_the_best_five():
  variables = tables(30, 30, seed=7)
  _, evaluator = run(variables, batches(30, 8), batches(30, 8), num_examples=3)
  assert [e["query"] for e in evaluator.examples] == [0, 14, 29]
  scores = variables["text"] @ variables["video"].T
  for example in evaluator.examples:
    order = np.argsort(-scores[example["query"]])[:5]
    assert example["ranked"] == order.tolist()
    assert example["true"] == [example["query"]]
    own = np.arange(30) == example["query"]
    assert example["rank"] == reference.rank(scores[example["query"]], own)


def test_narrations_are_queries_of_their_row():
  rng = np.random.default_rng(8)
  bags = rng.normal(size=(3, 2, WIDTH)).astype(np.float32)
  mask = np.array([[[1], [1]], [[1], [0]], [[0], [1]]], bool)
  videos = rng.normal(size=(3, WIDTH)).astype(np.float32)

  def bag_apply(variables, batch, *, rng=None, train=False, method=None):
    if method == "encode_text":
      return {"text_embed": jnp.asarray(bags)[batch["example_id"]]}, {}
    return {"video_embed": jnp.asarray(videos)[batch["example_id"]]}, {}

  texts = batches(3, 3)
  texts[0]["narration_mask"] = jnp.asarray(mask)
  found = dict(retrieval.Evaluator(bag_apply, texts, batches(3, 3)).run({}))
  flat, owner = bags[mask[..., 0]], np.nonzero(mask[..., 0])[0]
  check(found, flat @ videos.T, owner[:, None] == np.arange(3))


def test_cross_encoder_agrees_with_the_dual_one():
  variables = tables(9, 7, seed=9)
  relevance = np.array([0, 1, 2, 3, 4, 4, 3, 1, 0])
  group = np.array([0, 1, 2, 3, 4, 0, 1])

  def joint(variables, batch, *, rng=None, train=False, method=None):
    text = variables["text"][batch["tag_ids"][:, 0]]
    video = variables["video"][batch["clips_tokens"][:, 0]]
    logit = (text * video).sum(-1)
    return {"match_logits": jnp.stack([-logit, logit], axis=-1)}, {}

  texts = batches(9, 4, relevance=relevance)
  videos = batches(7, 3, group_id=group)
  texts = [b | {"tag_ids": b["example_id"][:, None]} for b in texts]
  videos = [b | {"clips_tokens": b["example_id"][:, None]} for b in videos]
  want, dual = run(variables, texts, videos)
  cross = retrieval.CrossEncoder(joint, texts, videos)
  assert dict(cross.run(variables)) == want
  assert [e["ranked"] for e in cross.examples] == [e["ranked"] for e in dual.examples]


def test_forward_drops_padding_compiles_once_and_names_what_is_missing():
  traces = []

  def counted(variables, batch, *, rng=None, train=False, method=None):
    traces.append(method)
    return {"x": batch["example_id"].astype(jnp.bfloat16)}, {}

  forward = collect.Forward(counted, ("x", "example_id"))
  for _ in range(2):
    out = forward({}, batches(7, 3))
    assert out["x"].tolist() == list(range(7))
    assert out["x"].dtype == np.float32
  assert len(traces) == 1
  with pytest.raises(KeyError, match="video_embed"):
    collect.collect(counted, {}, batches(3, 3), ("video_embed",))
  with pytest.raises(ValueError, match="empty"):
    forward({}, [])


@pytest.mark.multidevice
def test_rows_on_eight_devices_are_the_same_rows():
  axis = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((8,), ("data",), axis_types=axis)
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
  variables = tables(13, 13, seed=10)
  plain, _ = run(variables, batches(13, 8), batches(13, 8))
  found, _ = run(
    variables,
    jax.device_put(batches(13, 8), split),
    jax.device_put(batches(13, 8), split),
  )
  assert found == plain


def test_group_mean_keeps_the_order_of_first_rows():
  values = np.array([[4.0], [1.0], [8.0], [3.0]], np.float32)
  groups = collect.group_mean(values, np.array([9, 2, 9, 2]))
  assert groups.values.tolist() == [[6.0], [2.0]]
  assert groups.ids.tolist() == [9, 2]
  assert groups.first.tolist() == [0, 1]
  assert groups.of.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("size", "positives"), [(1, 1), (7, 1), (8, 3), (5, 5)])
def test_chance_is_exact(size, positives):
  for k in range(1, size + 1):
    want = reference.chance(size, positives, k)
    assert 1 - ranks.miss(size, positives)[k] == pytest.approx(want, abs=1e-12)


def test_cosines_do_not_see_the_norms_of_either_side():
  variables = tables(7, 7, seed=9)
  grown = {
    k: x * np.random.default_rng(3).uniform(0.01, 90, (7, 1)).astype(np.float32)
    for k, x in variables.items()
  }
  unit = {k: x / np.linalg.norm(x, axis=1, keepdims=True) for k, x in variables.items()}
  found, _ = run(grown, batches(7, 4), batches(7, 4), normalise=True)
  check(found, unit["text"] @ unit["video"].T, np.eye(7, dtype=bool))
  plain, _ = run(grown, batches(7, 4), batches(7, 4))
  assert plain != found


def test_any_two_modalities_by_methods_outputs_and_names():
  variables = tables(9, 9, seed=4) | {"sound": tables(9, 1, seed=5)["text"]}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    name = {"encode_text": "text", "encode_audio": "sound"}[method]
    return {f"{name}_out": variables[name][batch["example_id"]]}, {}

  evaluator = retrieval.Evaluator(
    apply,
    batches(9, 4),
    batches(9, 5),
    methods=("encode_text", "encode_audio"),
    outputs=("text_out", "sound_out"),
    names=("t2a", "a2t"),
  )
  found = dict(evaluator.run(variables))
  renamed = {k.replace("t2a", "t2v").replace("a2t", "v2t"): x for k, x in found.items()}
  check(renamed, variables["text"] @ variables["sound"].T, np.eye(9, dtype=bool))
  assert set(found) == {
    f"{d}_{m}"
    for d in ("t2a", "a2t")
    for m in ("recall@1", "recall@5", "recall@10", "median_rank")
  }
