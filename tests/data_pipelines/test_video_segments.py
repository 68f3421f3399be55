"""Segments of videos by hand: what overlaps, every r-th, tokens of the tree, words."""

import numpy as np
import pytest

from data_pipelines import batches, index, records, vocabularies
from vlp_jax import batch as contract
from vlp_jax import cluster_tree
from vlp_jax.errors import CheckpointError, UserError

TEXTS = ("the red square falls", "now it turns green", "a blue circle stands still")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  """Three videos of 8, 3 and 5 features at 1 Hz, feature i of video v is (v, i, 0)."""
  out = tmp_path_factory.mktemp("segments") / "out"
  words = vocabularies.learn("wordpiece", TEXTS * 3, size=80)
  columns = ("num_narrations", "num_features")
  with index.ShardWriter(out, "train", 1, columns=columns) as writer:
    for v, num in enumerate((8, 3, 5)):
      x = np.zeros((num, 3), "<f2")
      x[:, 0], x[:, 1] = v, np.arange(num)
      said = [(0.2, 1.5), (2.5, 2.9), (6.0, 9.0)] if v == 0 else [(1.0, 2.0)] * (v == 1)
      context = {"key": f"v{v}", "features/0/data": x.tobytes()}
      context |= {"features/0/num": num, "features/0/width": 3, "label/action": v}
      context |= {"features/0/rate_hz": 1.0, "duration_s": float(num)}
      lists = {
        "narration/text": list(TEXTS[: len(said)]),
        "narration/start": [a for a, _ in said],
        "narration/end": [b for _, b in said],
      }
      if v != 1:
        lists["caption/text"] = [TEXTS[v], TEXTS[1]]
      counts = {"num_narrations": len(said), "num_features": num}
      writer.write(0, records.encode(context, lists), **counts)
  info = {"name": "toy", "kind": "clip_features", "splits": ["train"]}
  index.write_info(out, info | {"features": [{"width": 3, "rate_hz": 1.0}]})
  level = np.zeros((4, 3), np.float32)
  level[:, 1] = np.arange(4) * 2  # features 0, 2, 4, 6: the nearest of these
  tree = cluster_tree.Tree((level,), (np.ones(4, bool),))
  tree.save(out / "tree.npz")
  return out, words, tree


def given(stored, **more):
  out, words, _ = stored
  base = dict(task="video_segments", dir=str(out), split="train", rows=4, max_clips=4)
  return base | dict(max_words=12, tree=str(out / "tree.npz")) | more, words


def evaluated(stored, **more):
  spec, words = given(stored, **more)
  (batch,) = list(batches.evaluation(spec, vocab=words))
  return batch


def test_narrations_and_what_overlaps_them(stored):
  batch = evaluated(stored, fields=("tokens", "features", "text", "label"))
  contract.check(batch)
  assert batch["example_mask"].all()
  x, mask = batch["clips_features"], batch["clips_mask"]
  seen = [x[i, mask[i], 1].tolist() for i in range(4)]
  assert seen == [[0, 1], [2], [6, 7], [1]]
  np.testing.assert_array_equal(batch["group_id"], [0, 0, 0, 1])
  np.testing.assert_array_equal(batch["example_id"], [0, 1, 2, 3])
  np.testing.assert_array_equal(batch["label_action"], [0, 0, 0, 1])
  np.testing.assert_array_equal(batch["clips_times"][0, :2], [[0, 1], [1, 2]])
  _, words, tree = stored
  np.testing.assert_array_equal(batch["clips_tokens"][mask], tree.assign(x[mask]))
  assert not batch["clips_tokens"][~mask].any()
  spec = words.spec
  for i, text in enumerate((*TEXTS, TEXTS[0])):
    ids = batch["text_ids"][i][batch["text_mask"][i]]
    assert ids.tolist() == [spec.cls_id, *words.encode(text), spec.sep_id]


def test_windows_one_after_the_other(stored):
  batch = evaluated(stored, unit="window", rows=6, fields=("features", "text"))
  real = batch["example_mask"]
  assert real.sum() == 5  # 8 features are two windows of 4, 3 one, 5 two
  x, mask = batch["clips_features"], batch["clips_mask"]
  seen = [x[i, mask[i], 1].tolist() for i in np.flatnonzero(real)]
  assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2], [0, 1, 2, 3], [4]]
  has = batch["text_mask"].any(axis=1)[real]
  assert has.tolist() == [True, True, True, False, False]
  _, words, _ = stored
  both = [*words.encode(TEXTS[0]), *words.encode(TEXTS[1])][:10]
  assert batch["text_ids"][0][1 : 1 + len(both)].tolist() == both
  assert "clips_tokens" not in batch


def test_captions_in_place_of_narrations(stored):
  """Videos 0 and 2 have two each, the second one the same; video 1 has none."""
  own = dict(unit="window", fields=("features", "text"), said="caption", max_clips=8)
  spec, words = given(stored, **own, rows=3)
  ids = [words.encode(text)[:10] for text in TEXTS]
  texts = lambda b: {
    int(g): row[m].tolist()[1:-1]
    for g, row, m in zip(b["group_id"], b["text_ids"], b["text_mask"], strict=True)
  }
  assert texts(evaluated(stored, **own, rows=3)) == {0: ids[0], 1: [], 2: ids[2]}
  stream = batches.build(spec, vocab=words)
  drawn = [texts(next(stream)) for _ in range(20)]
  assert {tuple(d[0]) for d in drawn} == {tuple(ids[0]), tuple(ids[1])}
  assert {tuple(d[2]) for d in drawn} == {tuple(ids[2]), tuple(ids[1])}
  assert not any(d[1] for d in drawn)


def test_words_that_captions_name(stored, tmp_path):
  file = tmp_path / "ways.txt"
  file.write_text("fall falls fell\n\nturn\nturning turns\n")
  things = ("square squares", "CIRCLE", "blue", "quare")
  own = dict(unit="window", fields=("features",), max_clips=8, rows=3)
  batch = evaluated(stored, named=dict(thing=things, way=str(file)), **own)
  contract.check(batch)
  order = np.argsort(batch["group_id"])
  # Of all captions of a video; video 1 has none. Parts of words are no words.
  want = [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
  assert batch["label_thing"][order].tolist() == want
  assert batch["label_way"][order].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
  with pytest.raises(UserError, match=r"input\.named\.way=.*cannot be read"):
    evaluated(stored, named=dict(way=str(tmp_path / "none")), **own)
  with pytest.raises(UserError, match=r"input\.named\.way has no words"):
    evaluated(stored, named=dict(way=()), **own)


def test_training_joins_neighbours_and_keeps_every_rth(stored):
  spec, words = given(stored, fields=("features", "text"), max_clips=8, max_words=24)
  stream = batches.build(spec | {"subsample": 3}, vocab=words)
  steps, joined = set(), set()
  for _ in range(40):
    batch = next(stream)
    for i in np.flatnonzero(batch["group_id"] == 0):
      at = batch["clips_features"][i, batch["clips_mask"][i], 1]
      steps |= set(np.diff(at).tolist())
      joined.add(int(batch["text_mask"][i].sum()))
      assert len(at)
  assert steps == {1, 2, 3}
  assert len(joined) > 3  # one, two and all three of the narrations
  alone = batches.build(spec | dict(subsample=1, join=0), vocab=words)
  batch = next(alone)
  seen = {
    int(e): batch["clips_features"][i, batch["clips_mask"][i], 1].tolist()
    for i, e in enumerate(batch["example_id"])
  }
  assert seen == {0: [0, 1], 1: [2], 2: [6, 7], 3: [1]}
  window = batches.build(spec | dict(unit="window", rows=3, max_clips=4), vocab=words)
  starts = {
    (int(g), float(f[0, 1]))
    for b in (next(window) for _ in range(20))
    for g, f in zip(b["group_id"], b["clips_features"], strict=True)
  }
  assert {s for g, s in starts if g == 0} == {0, 1, 2, 3, 4}
  assert {s for g, s in starts if g == 1} == {0}


def test_bad_keywords_and_trees_are_told(stored, tmp_path):
  _, _, tree = stored
  with pytest.raises(UserError, match=r"set input\.tree"):
    evaluated(stored, tree="")
  with pytest.raises(CheckpointError, match="ids of one tree"):
    evaluated(stored, tree_digest="0" * 64)
  assert evaluated(stored, tree_digest=tree.digest)["example_mask"].any()
  wide = cluster_tree.Tree((np.zeros((2, 5), np.float32),), (np.ones(2, bool),))
  wide.save(tmp_path / "wide.npz")
  with pytest.raises(UserError, match=r"width 3; the tree .* was made of 5"):
    evaluated(stored, tree=str(tmp_path / "wide.npz"))
  with pytest.raises(UserError, match="Did you mean 'tokens'"):
    evaluated(stored, fields=("token",))
  with pytest.raises(UserError, match="Known: narration, and caption with unit"):
    evaluated(stored, said="caption")
  with pytest.raises(UserError, match="features of 1 networks"):
    evaluated(stored, network=2)
