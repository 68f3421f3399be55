"""HERO's LMDBs and UniVL's pickles, laid out by hand, to records and batches."""

import io
import json
import os
import pickle
import sys

import numpy as np
import pytest

from data_pipelines import batches, index, records
from data_pipelines.prepare import clip_features
from data_pipelines.readers import (
  feature_stores,
  hero_lmdb,
  lmdb_file,
  locate,
  packed,
  univl,
)
from data_pipelines.readers.clip_row import ClipRow
from data_pipelines.vocabularies import words
from tests import region_files
from vlp_jax import batch as contract
from vlp_jax.errors import UserError

msgpack = pytest.importorskip("msgpack")
DIM = 6
VIDEOS = ("castle_s01e01_seg02_clip_00", "friends_s02e03_seg01_clip_05", "gone_clip")


@pytest.fixture(autouse=True)
def closed():
  """An LMDB may be open once a process."""
  feature_stores._database.cache_clear()
  feature_stores._whole.cache_clear()


def features(k, num=8):
  return (np.arange(num * DIM).reshape(num, DIM) + 100 * k).astype(np.float16) / 16


def frame(value) -> bytes:
  """An LZ4 frame of a msgpack map, as HERO's text databases hold."""
  lz4 = pytest.importorskip("lz4.frame", reason="needs requirements.txt")
  return lz4.compress(msgpack.packb(value, use_bin_type=True))


def npz(**arrays) -> bytes:
  out = io.BytesIO()
  np.savez_compressed(out, allow_pickle=np.True_, **arrays)  # as the published writer
  return out.getvalue()


@pytest.fixture
def hero(tmp_path):
  """resnet_slowfast_1.5 plain and compressed, and a database of subtitles."""
  plain = {
    v.encode(): msgpack.packb(
      {"features": region_files.nd(features(k))}, use_bin_type=True
    )
    for k, v in enumerate(VIDEOS[:2])
  }
  region_files.lmdb_write(tmp_path / "resnet_slowfast_1.5", plain)
  small = {v.encode(): npz(features=features(k)) for k, v in enumerate(VIDEOS[:2])}
  region_files.lmdb_write(tmp_path / "resnet_slowfast_1.5_compressed", small)
  told = {}
  for k, video in enumerate(VIDEOS):
    sub = [
      {"text": "Castle : It&#39;s here.", "start": 0.5, "end": 2.9},
      {"text": "STOP THAT!", "start": 3.0, "end": 5.0 + k},
    ]
    told[video.encode()] = frame(
      {
        "vid_name": video,
        "sub": sub,
        "input_ids": [[7, 8], [9]],
        "unique_sub2frames": [(0, [0, 1]), (1, [2, 3])],
        "unmatched_frames": [4],
        "v_id": k,
        "duration": 8,
      }
    )
  region_files.lmdb_write(tmp_path / "tv_subtitles.db", told)
  return tmp_path


def test_both_forms_of_feature_databases(hero):
  for name in ("resnet_slowfast_1.5", "resnet_slowfast_1.5_compressed"):
    path = str(hero / name)
    store = feature_stores.opened(path, "auto")
    assert store.rate_hz == pytest.approx(1 / 1.5)
    assert set(store.stems) == set(VIDEOS[:2])
    row = ClipRow(key="x", media=f"friends/{VIDEOS[1]}.mp4")
    assert store.find(row) == VIDEOS[1]
    assert store.find(ClipRow(key="x", media=VIDEOS[2])) is None
    found = feature_stores.load(path, VIDEOS[1])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features(1))
    with pytest.raises(ValueError, match="gone_clip is not in"):
      feature_stores.load(path, VIDEOS[2])
  with pytest.raises(UserError, match=r"each 1\.5 s by its name.*--rates auto"):
    feature_stores.opened(path, "1.5")
  assert feature_stores.opened(path, "0.6667").rate_hz == 0.6667
  with pytest.raises(UserError, match="numbers expected"):
    feature_stores.opened(path, "fast")


def test_damaged_records_name_the_video(tmp_path):
  entries = {b"a": b"PK\x03\x04cut", b"b": msgpack.packb({"feature": 1}), b"c": b"\xc1"}
  entries[b"d"] = msgpack.packb(
    {
      "features": {
        b"nd": True,
        b"type": "O",
        b"kind": b"O",
        b"shape": [1],
        b"data": b"",
      }
    }
  )
  region_files.lmdb_write(tmp_path / "feats", entries)
  path = str(tmp_path / "feats")
  for key, message in (
    ("a", "damaged .npz"),
    ("b", "b: no 'features'"),
    ("c", "damaged msgpack"),
    ("d", "Python objects"),
  ):
    with pytest.raises(ValueError, match=message):
      feature_stores.load(path, key)
  with pytest.raises(UserError, match="does not end with seconds"):
    feature_stores.opened(path, "auto")


def test_subtitles_and_queries_of_hero(hero, tmp_path):
  rows = hero_lmdb.read(hero / "tv_subtitles.db")
  assert [r.key for r in rows] == sorted(VIDEOS)
  assert rows[0].said == (
    ("Castle : It's here.", 0.5, 2.9),
    ("stop that!", 3.0, 5.0),
  )
  assert rows[0].split == "train"
  only = hero_lmdb.read(hero / "tv_subtitles.db", only={VIDEOS[1]}, split="val")
  assert [(r.key, r.split) for r in only] == [(VIDEOS[1], "val")]
  told = {
    b"90": frame({"desc": "He  sits.", "vid": VIDEOS[0], "ts": [3.2, 7.6]}),
    b"91": frame({"desc": "She waves.", "ts": [[5, 10], [0, 5], [0, 5], [10, 15]]}),
    b"92": frame(
      {"q": "who?", "a0": "he", "a1": "she", "vid_name": VIDEOS[1], "ts": "1-2.5"}
      | {"target": 1, "input_ids": [[1], [2], [3]]}
    ),
    b"93": frame({"desc": "no video", "ts": [0, 1]}),
    b"94": b"no frame",
    b"95": frame({"vid": VIDEOS[0]}),
    b"96": frame({"desc": "backwards", "vid": VIDEOS[0], "ts": [3, 1]}),
  }
  region_files.lmdb_write(tmp_path / "tvr_val.db", told)
  (tmp_path / "tvr_val.db" / "query2video.json").write_text('{"91": "gone_clip"}')
  rows = hero_lmdb.queries(tmp_path / "tvr_val.db")
  assert [r.split for r in rows] == ["val"] * 7
  one, most, asked, *wrong = rows
  assert (one.media, one.start, one.end) == (VIDEOS[0], 3.2, 7.6)
  assert one.captions == ("He sits.",)
  assert (most.media, most.start, most.end) == ("gone_clip", 0.0, 5.0)
  assert asked.choices == (("who?", ("he", "she"), 1),)
  assert (asked.start, asked.end) == (1.0, 2.5)
  reasons = [r.error for r in wrong]
  for reason, part in zip(
    reasons, ("names no video", "LZ4", "neither a desc", "3.0 to 1.0"), strict=True
  ):
    assert part in reason
  (tmp_path / "tvr_val.db" / "query2video.json").write_text("[1]")
  with pytest.raises(UserError, match="no map of queries to videos"):
    hero_lmdb.queries(tmp_path / "tvr_val.db")


def test_without_lz4_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "lz4", None)
  monkeypatch.setitem(sys.modules, "lz4.frame", None)
  with pytest.raises(UserError, match="need the package lz4: pip install"):
    packed.lz4(b"")
  monkeypatch.setattr(lmdb_file, "is_file", lambda path: True)
  monkeypatch.setitem(sys.modules, "lmdb", None)
  with pytest.raises(UserError, match="need the package lmdb: pip install"):
    lmdb_file.File("x")


def contexts(out, split="train"):
  found = {}
  for path in index.load(out, split).paths:
    with path.open("rb") as f:
      for _, payload in records.read(f):
        context, lists = records.decode(payload)
        found[context["key"][0].decode()] = context, lists
  return found


def batch_of(out, vocab, split="train", **more):
  given = dict(task="clip_features", dir=str(out), split=split, rows=2) | more
  (batch,) = batches.evaluation(given, vocab=vocab)
  contract.check(batch)
  return batch


def test_hero_from_databases_to_a_batch(hero, tmp_path):
  out = tmp_path / "out"
  info = clip_features.prepare(
    hero / "tv_subtitles.db",
    out,
    format="hero_lmdb",
    features=str(hero / "resnet_slowfast_1.5_compressed"),
    rates="auto",
    quiet=True,
  )
  assert info["splits"]["train"]["num_examples"] == 2
  assert info["missing_files"] == 0  # what has no features is not read
  found = contexts(out)
  context, lists = found[VIDEOS[0]]
  assert context["features/0/width"] == [DIM]
  assert context["duration_s"] == [12.0]
  assert lists["narration/text"][0] == [b"Castle : It's here."]
  batch = batch_of(out, None, unit="seconds", max_seconds=12)
  place = int(np.argmax(batch["clips_features"][:, 0, 0]))
  np.testing.assert_array_equal(batch["clips_features"][1 - place, 0], features(0)[0])
  np.testing.assert_array_equal(batch["clips_features"][place, 11], features(1)[7])


def univl_source(root, objects):
  """UniVL's YouCook2: lists as they are, or as arrays of objects."""
  made = (lambda x: np.array(x, object)) if objects else list
  told = {
    v: {
      "start": made([2.0, 6.0]),
      "end": made([5.0, 8.0]),
      "text": made(["cut the onion", f"stir pot {v}"]),
      "transcript": made(["now we cut", ""]),
    }
    for v in ("vidA", "vidB", "vidC")
  }
  (root / "youcookii_data.pickle").write_bytes(pickle.dumps(told, protocol=2))
  (root / "youcookii_train.csv").write_text(
    "video_id,feature_file\nvidA,101/vidA.npy\nvidX,101/vidX.npy\n"
  )
  (root / "youcookii_val.csv").write_text("video_id,feature_file\nvidB,102/vidB.npy\n")
  stored = {f"10{k}/vid{c}.npy": features(k, 10) for k, c in ((1, "A"), (2, "B"))}
  at = root / "features.pickle"
  at.write_bytes(pickle.dumps(stored, protocol=4))
  return at


@pytest.mark.parametrize("objects", [False, True])
def test_univl_from_pickles_to_a_batch(tmp_path, objects):
  at = univl_source(tmp_path, objects)
  rows = univl.read(tmp_path)
  assert [(r.key, r.split) for r in rows if not r.error] == [
    ("vidA_00", "train"),
    ("vidA_01", "train"),
    ("vidB_00", "val"),
    ("vidB_01", "val"),
  ]
  assert [r.error for r in rows if r.error] == [
    "no row: vidX is not in youcookii_data.pickle"
  ]
  assert rows[0].captions == ("cut the onion",)
  assert rows[0].said == (("now we cut", 2.0, 5.0),)
  assert rows[1].said == ()
  out = tmp_path / "out"
  given = dict(format="univl", features=str(at), rates="1.0", quiet=True)
  info = clip_features.prepare(tmp_path, out, **given)
  assert info["splits"]["train"] == {"bad_records": 0, "num_examples": 2, "shards": 1}
  vocab = words.Vocabulary(("cut", "the", "onion", "stir", "pot"))
  batch = batch_of(out, vocab, "val", unit="clip", text="caption", max_words=4)
  # int(2 r) to int(5 r) + 1, as the published slices
  np.testing.assert_array_equal(batch["clips_features"][0, 0], features(2, 10)[5])
  assert batch["text_mask"].sum(1).tolist() == [3, 2]


def test_howto100m_of_univl_is_a_row_a_video(tmp_path):
  told = {"v1": {"start": [0.0, 4.5], "end": [4.0, 9.0], "text": ["one", "two"]}}
  told["v2"] = {"start": [0.0], "end": [1.0, 2.0], "text": ["cut off"]}
  (tmp_path / "caption.pickle").write_bytes(pickle.dumps(told))
  (tmp_path / "HowTo100M.csv").write_text("video_id,feature_file\nv1,v1.npy\nv2,v2\n")
  good, wrong = univl.read(tmp_path)
  assert good.said == (("one", 0.0, 4.0), ("two", 4.5, 9.0))
  assert good.end is None
  assert "shorter" in wrong.error or "longer" in wrong.error
  assert [r.key for r in univl.read(tmp_path, only={"v1"})] == ["v1"]
  with pytest.raises(UserError, match=r"none of HowTo100M"):
    univl.read(tmp_path / "nothing")


def test_howto100m_test_features_hold_both_networks(tmp_path):
  rows = [
    {"id": f"clip{k}", "caption": f"cut the onion {k}"}
    | {"2d": features(k)[0].astype(np.float32), "3d": features(k)[1, :4]}
    for k in range(2)
  ]
  at = tmp_path / "youcook_val.pkl"
  at.write_bytes(pickle.dumps(rows, protocol=2))
  out = tmp_path / "out"
  clip_features.prepare(
    tmp_path,
    out,
    format="univl:pickled",
    features=f"{at}#2d,{at}#3d",
    rates="1,1",
    vocab_file=words_file(tmp_path),
    quiet=True,
  )
  batch = batch_of(out, None, "val", unit="clip")
  want = np.concatenate([features(1)[0], features(1)[1, :4]])
  np.testing.assert_array_equal(batch["clips_features"][1, 0], want)
  with pytest.raises(UserError, match="is a list; say which entry"):
    feature_stores.opened(str(at), "1")
  with pytest.raises(UserError, match="KeyError '4d'"):
    feature_stores.opened(f"{at}#4d", "1")


def words_file(tmp_path):
  (tmp_path / "vocab.txt").write_text("cut\nthe\nonion\n")
  return str(tmp_path / "vocab.txt")


class Canary:
  """A pickle that runs a command when it is loaded."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_nothing_in_a_pickle_is_run(tmp_path):
  bad = {"v1": {"start": np.array([Canary(tmp_path / "canary")], object)}}
  (tmp_path / "caption.pickle").write_bytes(pickle.dumps(bad))
  (tmp_path / "HowTo100M.csv").write_text("video_id,feature_file\nv1,v1\n")
  with pytest.raises(UserError, match="could be code"):
    univl.read(tmp_path)
  at = tmp_path / "features.pickle"
  at.write_bytes(pickle.dumps(bad))
  with pytest.raises(UserError, match="could be code"):
    feature_stores.opened(str(at), "1")
  assert not (tmp_path / "canary").exists()
  square = pickle.dumps(np.array([["a"], ["b"]], object))
  with pytest.raises(ValueError, match="array of objects of shape"):
    packed.pickled(square)
  assert packed.pickled(pickle.dumps(np.array(["a", 2, None], object))) == [
    "a",
    2,
    None,
  ]


def test_scalars_of_numpy_in_a_pickle_are_numbers_and_texts():
  given = [np.float64(1), np.float32(2), np.int64(3), np.str_("x"), np.bool_(True)]
  for value in (given, np.array(given, object), tuple(given)):
    for protocol in (2, 4, 5):
      found = packed.pickled(pickle.dumps(value, protocol))
      assert found == [1.0, 2.0, 3, "x", True]
      assert [type(x) for x in found] == [float, float, int, str, bool]
  assert packed.pickled(pickle.dumps({"n": np.array(4)})) == {"n": 4}
  assert packed.pickled(pickle.dumps(np.array([4]))).shape == (1,)


@pytest.mark.parametrize("captions", ["csv", "json"])
def test_words_are_learned_from_the_captions_of_each_form(tmp_path, captions):
  told = {"start": [0.0, 3.0], "end": [2.0, 5.0], "text": ["Add salt", "stir, salt"]}
  if captions == "csv":
    text = 'start,end,text\n0.0,2.0,Add salt\n3.0,5.0,"stir, salt"\n'
    (tmp_path / "howto100m_captions").mkdir()
    (tmp_path / "howto100m_captions" / "v1.csv").write_text(text)
  else:
    (tmp_path / "caption.json").write_text(json.dumps({"v1": told}))
  (tmp_path / "2D").mkdir()
  np.save(tmp_path / "2D" / "v1.npy", features(0))
  out = tmp_path / "out"
  given = dict(format="howto100m", features=f"{tmp_path}/2D", rates="1.0", quiet=True)
  info = clip_features.prepare(tmp_path, out, **given)
  vocab = words.load(str(out / "vocab.txt"))
  assert vocab.tokens[1:] == ("salt", "add", "stir")
  assert info["vocab"]["digest"] == vocab.digest
  assert vocab.encode("Add Salt") == [2, 1]  # as learned: capitals do not count


def test_the_formats_are_known_by_name():
  assert {"hero_lmdb", "univl"} <= set(locate.formats())
  assert locate.reader("hero_lmdb:queries") is hero_lmdb.queries
  assert json.dumps(locate.options("split=val", hero_lmdb.read)) == '{"split": "val"}'
