"""Features of clips: files of users to batches, growth, pooling, bad files."""

import json

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines import batches, index, validate
from data_pipelines.prepare import clip_features
from data_pipelines.readers import clip_row, feature_files
from data_pipelines.synthetic import pixel_features
from data_pipelines.tasks import clip_features as task
from data_pipelines.vocabularies import words
from tests.reference import growing
from vlp_jax import batch as contract
from vlp_jax import cluster_tree
from vlp_jax.errors import CheckpointError, UserError

WORDS = ("cut", "the", "onion", "stir", "pot", "serve")
RATES, WIDTHS = (1.0, 1.5), (3, 2)


def dictionary():
  return words.Vocabulary(WORDS)


def features(video, k):
  rng = np.random.default_rng((ord(video), k))
  return rng.normal(size=(int(20 * RATES[k]), WIDTHS[k])).astype(np.float16)


def said(video):
  rng = np.random.default_rng(ord(video))
  starts = np.sort(rng.uniform(0, 18, 7)).round(2)
  lengths = rng.uniform(0.3, 2.5, 7).round(2)
  text = [
    " ".join(rng.choice([*WORDS, "unknown"], rng.integers(1, 6))) for _ in range(7)
  ]
  return starts.tolist(), np.minimum(starts + lengths, 20).tolist(), text


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  at = tmp_path_factory.mktemp("howto")
  for k, name in enumerate(("2D", "3D")):
    (at / name / "some").mkdir(parents=True)
    for video in "abcd":
      x = features(video, k)
      if video == "c":
        np.savez(at / name / "some" / f"{video}.npz", features=x, extra=np.zeros(3))
      elif not (video == "d" and k):  # d has no 3D features
        np.save(at / name / "some" / f"{video}.npy", x)
  told = {v: dict(zip(("start", "end", "text"), said(v), strict=True)) for v in "abcde"}
  (at / "caption.json").write_text(json.dumps(told))
  (at / "vocab.txt").write_text("\n".join(WORDS))
  return at


def prepare(source, out, **more):
  folders = f"{source}/2D,{source}/3D"
  return clip_features.prepare(
    source, out, format="howto100m", features=folders, quiet=True, **more
  )


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  out = tmp_path_factory.mktemp("shards")
  info = prepare(source, out, vocab_file=str(source / "vocab.txt"))
  return out, info


def test_files_become_records_that_are_valid(source, prepared):
  out, info = prepared
  assert info["splits"]["train"]["num_examples"] == 3
  assert info["missing_files"] == 1  # e has no features and is not read, d lacks 3D
  assert [f["width"] for f in info["features"]] == list(WIDTHS)
  assert validate.run(out, quiet=True)[1] == []
  table = index.load(out, "train")
  assert table.columns["num_narrations"].tolist() == [7, 7, 7]
  assert table.columns["duration_s"].tolist() == [20.0] * 3
  before = {p.name: p.read_bytes() for p in out.iterdir()}
  prepare(source, out, vocab_file=str(source / "vocab.txt"))
  assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def pooled(video, start, end):
  parts = []
  for k, rate in enumerate(RATES):
    x = features(video, k)[int(start * rate) : int(end * rate) + 1].astype(np.float32)
    parts.append(x.max(axis=0) if len(x) else np.zeros(WIDTHS[k], np.float32))
  return np.concatenate(parts)


def test_pairs_grow_pool_and_read_as_published(prepared):
  out, _ = prepared
  given = dict(task="clip_features", dir=str(out), split="train", rows=3, pairs=9)
  given |= dict(min_time=5.0, max_words=6)
  vocab = dictionary()
  stream = batches.build(given, vocab=vocab, seed=1)
  seen = set()
  for _ in range(3):
    batch = next(stream)
    contract.check(batch)
    assert batch["clips_features"].shape == (3, 9, 5)
    assert batch["clips_mask"].all()
    for row, video_id in enumerate(batch["example_id"]):
      video = "abc"[video_id]
      starts, ends, texts = said(video)
      starts, ends = (np.float32(x).tolist() for x in (starts, ends))
      clips = {}
      for at in range(7):
        a, b, order = growing.grow(starts, ends, at, 5.0)
        ids = [i for n in order for i in vocab.encode(texts[n])][:6]
        clips[at] = (a, b, ids)
      for p in range(9):
        a, b = batch["clips_times"][row, p].tolist()
        ids = batch["narration_ids"][row, p][batch["narration_mask"][row, p]].tolist()
        own = [at for at, clip in clips.items() if clip == (a, b, ids)]
        assert own
        seen |= {(video, own[0])}
        np.testing.assert_array_equal(
          batch["clips_features"][row, p], pooled(video, a, b)
        )
  assert len(seen) > 12  # of 21 narrations, drawn anew each epoch
  again = batches.build(given, vocab=vocab, seed=1)
  np.testing.assert_array_equal(
    next(again)["clips_times"], first_times(given, vocab, 1)
  )
  other = next(batches.build(given, vocab=vocab, seed=2))
  assert (other["clips_times"] != first_times(given, vocab, 1)).any()


def first_times(given, vocab, seed):
  return next(batches.build(given, vocab=vocab, seed=seed))["clips_times"]


def test_growing_agrees_with_steps():
  rng = np.random.default_rng(0)
  run = tf.function(task.grow, autograph=False)
  for num in (1, 2, 6, 30):
    start = np.sort(rng.uniform(0, 40, num)).astype(np.float32)
    end = start + rng.uniform(0.1, 3, num).astype(np.float32)
    a, b, order = run(start, end, np.arange(num, dtype=np.int32), 5.0, 8)
    for at in range(num):
      want = growing.grow(start.tolist(), end.tolist(), at, 5.0)
      assert (float(a[at]), float(b[at])) == want[:2]
      kept = [int(n) for n in order[at].numpy() if n >= 0]
      assert kept == want[2][:8]


@pytest.fixture(scope="module")
def clips(source, tmp_path_factory):
  """Rows with an end, captions and another split, as of YouCook2."""
  folders = [
    feature_files.Folder(source / name, rate)
    for name, rate in zip(("2D", "3D"), RATES, strict=True)
  ]
  rows = [
    clip_row.ClipRow(
      "one", "a", split="val", start=2.2, end=6.0, captions=("cut the onion",)
    ),
    clip_row.ClipRow(
      "two", "b.mp4", split="val", start=1.0, end=3.0, captions=("stir", "serve pot")
    ),
    clip_row.ClipRow(
      "late", "b", split="val", start=99.0, end=101.0, captions=("stir",)
    ),
    clip_row.ClipRow("whole", "c", split="val"),
    clip_row.bad("broken", "no line", "val"),
    clip_row.ClipRow("gone", "z", split="val"),
  ]
  out = tmp_path_factory.mktemp("clips")
  info = clip_features.write(rows, folders, out, name="toy", settings={}, quiet=True)
  return out, info


def test_clips_captions_and_seconds_in_evaluation(clips):
  out, info = clips
  assert info["splits"]["val"] == {"num_examples": 3, "shards": 1, "bad_records": 2}
  reasons = (out / "bad_records.jsonl").read_text()
  assert "ends before the clip" in reasons
  given = dict(task="clip_features", dir=str(out), split="val", rows=2)
  items = list(batches.evaluation({**given, "unit": "clip"}))
  found = np.concatenate([b["clips_features"][b["example_mask"]] for b in items])
  want = [pooled("a", 2.2, 6.0), pooled("b", 1.0, 3.0), pooled("c", 0, 20)]
  np.testing.assert_array_equal(found[:, 0], want)
  given["text"], given["unit"] = "caption", "clip"
  texts = list(batches.evaluation({**given, "max_words": 4}, vocab=dictionary()))
  flat = {k: np.concatenate([b[k] for b in texts]) for k in texts[0]}
  real = flat["example_mask"]
  assert flat["relevance"][real].tolist() == [0, 1, 1]
  assert flat["example_id"][real].tolist() == [0, 1, 2]
  assert flat["text_ids"][0].tolist() == [1, 2, 3, 0]
  given = dict(task="clip_features", dir=str(out), split="val", rows=3)
  (batch,) = batches.evaluation({**given, "unit": "seconds", "max_seconds": 6})
  contract.check(batch)
  assert batch["clips_mask"].sum(axis=1).tolist() == [4, 2, 6]
  assert batch["clips_times"][1, 1].tolist() == [1, 2]
  x, y = (features("c", k).astype(np.float32) for k in range(2))
  for t in range(6):
    want = np.concatenate([x[t], y[int(t * 1.5) : int((t + 1) * 1.5)].max(axis=0)])
    np.testing.assert_array_equal(batch["clips_features"][2, t], want)


def test_a_clip_is_all_rows_that_the_published_slice_has(source, tmp_path):
  """Starts and ends between the rows of both networks."""
  times = np.sort(np.random.default_rng(5).uniform(0, 19.9, (40, 2)), axis=1).round(2)
  rows = [
    clip_row.ClipRow(f"c{k:02d}", "a", split="val", start=float(s), end=float(e))
    for k, (s, e) in enumerate(times)
  ]
  folders = [
    feature_files.Folder(source / name, rate)
    for name, rate in zip(("2D", "3D"), RATES, strict=True)
  ]
  clip_features.write(rows, folders, tmp_path, name="toy", settings={}, quiet=True)
  given = dict(task="clip_features", dir=str(tmp_path), split="val", rows=40)
  (batch,) = batches.evaluation({**given, "unit": "clip"})
  want = [pooled("a", s, e) for s, e in times]
  np.testing.assert_array_equal(batch["clips_features"][:, 0], want)


def test_tokens_of_a_tree(prepared, tmp_path):
  """Ids of the leaf that plain distances find, and no features; 0 at padding."""
  out, _ = prepared
  rng = np.random.default_rng(2)
  level = rng.normal(size=(6, sum(WIDTHS))).astype(np.float32)
  tree = cluster_tree.Tree((level,), (np.arange(6) != 3,))
  tree.save(tmp_path / "tree.npz")
  given = dict(task="clip_features", dir=str(out), split="train", rows=3)
  given |= dict(unit="seconds", max_seconds=24, tree=str(tmp_path / "tree.npz"))
  (batch,) = batches.evaluation({**given, "keep_features": True})
  contract.check(batch)
  x, mask = batch["clips_features"], batch["clips_mask"]
  assert mask.sum(axis=1).tolist() == [20] * 3
  for row, t in np.argwhere(mask):
    far = [np.square(x[row, t] - c).sum() for c in level]
    far[3] = np.inf  # unused
    assert batch["clips_tokens"][row, t] == np.argmin(far)
  assert not batch["clips_tokens"][~mask].any()
  (alone,) = batches.evaluation(given)
  assert "clips_features" not in alone
  np.testing.assert_array_equal(alone["clips_tokens"], batch["clips_tokens"])
  # The plan of the batches knows the tree: a position of another one does not fit.
  plan = lambda more: batches.build({**given, **more}).get_state()["plan"]
  assert plan({}) != plan({"tree": ""})
  with pytest.raises(CheckpointError, match="ids of one tree"):
    batches.evaluation({**given, "tree_digest": "0" * 64})
  wide = cluster_tree.Tree((np.zeros((2, 9), np.float32),), (np.ones(2, bool),))
  wide.save(tmp_path / "wide.npz")
  with pytest.raises(UserError, match="width 5; the tree"):
    batches.evaluation({**given, "tree": str(tmp_path / "wide.npz")})


def test_bad_inputs_are_told(source, prepared, tmp_path):
  with pytest.raises(UserError, match="a rate for each folder"):
    clip_features.prepare(source, tmp_path, format="howto100m", features="a,b,c")
  with pytest.raises(UserError, match="numbers expected"):
    clip_features.prepare(
      source, tmp_path, format="howto100m", features=str(source), rates="fast"
    )
  with pytest.raises(UserError, match="no directory of feature files"):
    feature_files.Folder(source / "4D", 1.0)
  with pytest.raises(UserError, match=r"no \.npy or \.npz"):
    feature_files.Folder(tmp_path, 1.0)
  given = dict(task="clip_features", dir=str(prepared[0]), split="train", rows=3)
  for more, message in (
    (dict(unit="pair"), "pairs"),
    (dict(unit="pairs", text="caption"), "for training with narrations"),
    (dict(unit="clip", pairs=0), "positive"),
    (dict(unit="pairs"), "needs a vocabulary"),
  ):
    with pytest.raises(UserError, match=message):
      batches.build({**given, **more})
  with pytest.raises(UserError, match="for training"):
    batches.evaluation(given, vocab=dictionary())


def test_damaged_and_odd_feature_files(tmp_path):
  np.save(tmp_path / "flat.npy", np.zeros(4, np.float32))
  np.save(tmp_path / "ints.npy", np.zeros((4, 2), int))
  np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
  np.savez(tmp_path / "one.npz", a=np.ones((2, 2)))
  (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:-3])
  for name, message in (("flat", "expected floats"), ("ints", "expected floats")):
    with pytest.raises(ValueError, match=message):
      feature_files.load(tmp_path / f"{name}.npy")
  with pytest.raises(ValueError, match="'features'"):
    feature_files.load(tmp_path / "two.npz")
  assert feature_files.load(tmp_path / "one.npz").tolist() == [[1, 1], [1, 1]]
  with pytest.raises(UserError, match=r"cut\.npy"):
    feature_files.load(tmp_path / "cut.npy")
  x = np.ones((4, 2), np.float32)
  row = {"error": "", "start": 0.0, "end": None, "features": ["x.npy"], "said": []}
  row |= {"subtitles": "", "captions": [], "key": "x", "group": ""}
  make = lambda: clip_features.record(row, folders=[(str(tmp_path), 1.0)], widths=[2])
  np.save(tmp_path / "x.npy", x)
  assert make()[1] == {"duration_s": 4.0, "num_narrations": 0, "num_captions": 0}
  for bad, message in (
    (x[:, :1], "1 wide"),
    (x * 1e6, "finite"),
    (x[:0], "ends before"),
  ):
    np.save(tmp_path / "x.npy", bad)
    with pytest.raises(ValueError, match=message):
      make()


def test_pixel_features_have_unit_norm_and_see_motion():
  rng = np.random.default_rng(0)
  still = np.repeat(rng.integers(0, 255, (1, 18, 17, 3)), 12, axis=0).astype(np.uint8)
  flat = pixel_features.of_frames(still, 6, moving=False)
  assert flat.shape == (2, 48)
  np.testing.assert_allclose(np.linalg.norm(flat.astype(float), axis=1), 1, atol=1e-2)
  both = pixel_features.of_frames(still, 4, moving=True)
  assert both.shape == (3, 96)
  assert not both[:, 48:].any()
  moving = rng.integers(0, 255, still.shape).astype(np.uint8)
  assert pixel_features.of_frames(moving, 4, moving=True)[:, 48:].all()
