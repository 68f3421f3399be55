"""TVC in HERO's databases and in JSON lines, laid out by hand, to a captioner."""

import json

import jax
import numpy as np
import pytest

from data_pipelines import batches
from data_pipelines.prepare import clip_features
from data_pipelines.readers import feature_stores, hero_lmdb, tvr
from tests import region_files
from tests.reference import shards
from vlp_jax import batch as contract
from vlp_jax import errors, resolve, state
from vlp_jax.objectives import caption

msgpack = pytest.importorskip("msgpack")
lz4 = pytest.importorskip("lz4.frame", reason="needs requirements.txt")
DIM = 16
CASTLE, HOUSE = "castle_s01e01_seg02_clip_00", "house_s03e11_seg02_clip_18"
# clip: video, seconds, {caption: (text, type)}
TOLD = {
  "101": (CASTLE, [3.2, 7.6], {"11": ("Red circle  moves.", "v")}),
  "102": (
    CASTLE,
    [0.0, 2.29],
    {"12": ("It's fast.", "t"), "13": ("Blue square", "vt")},
  ),
  "205": (HOUSE, [16.48, 33.87], {"24": ("Circle moves left.", "v")}),
}
FRAMES = {"101": (2, 6), "102": (0, 2), "205": (10, 23)}  # of one each 1.5 s


@pytest.fixture(autouse=True)
def closed():
  """An LMDB may be open once a process."""
  feature_stores._database.cache_clear()


def packed(entries) -> dict:
  """LZ4 frames of msgpack maps."""
  pack = lambda x: lz4.compress(msgpack.packb(x, use_bin_type=True))
  return {key.encode(): pack(value) for key, value in entries.items()}


def beside(folder, **files):
  for name, value in files.items():
    (folder / f"{name}.json").write_text(json.dumps(value))


def features(k):
  rows = np.arange(24 * DIM).reshape(24, DIM) % 97
  return (rows + 100 * k).astype(np.float16) / 16


@pytest.fixture
def hero(tmp_path):
  """tvc_train.db, tv_subtitles.db and resnet_slowfast_1.5, of three clips."""
  root, clips, captions = tmp_path / "tvc_train.db", {}, {}
  for clip, (video, ts, told) in TOLD.items():
    same = {"vid_name": video, "ts": ts, "sub_indices": [0], "duration": 61.46}
    listed = [
      {"id": int(c), "input_ids": [7, 8], "text": t} for c, (t, _) in told.items()
    ]
    clips[clip] = same | {"captions": listed}
    for key, (text, kind) in told.items():
      captions[key] = same | {
        "desc": text,
        "type": kind,
        "from_retrieval": key == "11",
        "desc_id": int(key),
        "input_ids": [7, 8],
        "clip_id": clip,
      }
  for name, entries in (("clip.db", clips), ("cap.db", captions)):
    region_files.lmdb_write(root / name, packed(entries))
  video = {clip: TOLD[clip][0] for clip in TOLD}
  beside(
    root / "clip.db", clip2vid=video, vid2clips={CASTLE: ["101", "102"], HOUSE: ["205"]}
  )
  beside(
    root / "cap.db",
    id2len={},
    cap2vid={key: x["vid_name"] for key, x in captions.items()},
    vid2caps={CASTLE: ["11", "12", "13"], HOUSE: ["24"]},
  )
  beside(root, meta={"BOS": 0, "EOS": 2, "PAD": 1, "toker": "roberta-base"})
  sub = [{"text": "HANDS UP!", "start": 0.5, "end": 1.9}]
  told = {CASTLE: {"vid_name": CASTLE, "sub": sub, "duration": 20}}
  region_files.lmdb_write(tmp_path / "tv_subtitles.db", packed(told))
  whole = {CASTLE: features(0), HOUSE: features(1)}
  entries = {
    v.encode(): msgpack.packb({"features": region_files.nd(x)}, use_bin_type=True)
    for v, x in whole.items()
  }
  region_files.lmdb_write(tmp_path / "resnet_slowfast_1.5", entries)
  return tmp_path


def texts(clip):
  return tuple(" ".join(t.split()) for t, _ in TOLD[clip][2].values())


def check(rows):
  assert [r.error for r in rows] == [""] * 3
  assert {r.key for r in rows} == set(TOLD)
  for row in rows:
    video, ts, _ = TOLD[row.key]
    assert (row.media, row.group, row.split) == (video, video, "train")
    assert [row.start, row.end] == ts
    assert row.captions == texts(row.key)


def test_rows_of_either_database(hero):
  root = hero / "tvc_train.db"
  both = hero_lmdb.tvc(root)
  check(both)
  assert all(r.said == () for r in both)
  assert hero_lmdb.tvc(root / "clip.db") == both
  said = hero_lmdb.tvc(root, subtitles="../tv_subtitles.db", split="val")
  assert {r.split for r in said} == {"val"}
  assert said[0].said == (("hands up!", 0.5, 1.9),)
  (root / "clip.db").rename(root / "elsewhere")
  check(hero_lmdb.tvc(root))
  check(hero_lmdb.tvc(root / "cap.db"))
  (root / "cap.db").rename(root / "gone")
  with pytest.raises(errors.UserError, match=r"neither clip\.db nor cap\.db"):
    hero_lmdb.tvc(root)


def test_what_does_not_agree_is_damaged(hero):
  root = hero / "tvc_train.db"
  beside(root / "clip.db", clip2vid={"101": HOUSE, "999": CASTLE})
  wrong, *good, lost = hero_lmdb.tvc(root)
  assert [r.key for r in good] == ["102", "205"]
  assert "of castle_s01e01_seg02_clip_00 here and of house" in wrong.error
  assert (lost.key, "it is not in" in lost.error) == ("999", True)
  (root / "clip.db").rename(root / "elsewhere")
  same = {"clip_id": 1, "vid_name": CASTLE, "ts": [2.0, 2.0]}
  entries = {
    "1": same | {"desc": "one"},
    "2": same | {"desc": "two", "ts": [0, 1]},
    "3": {"clip_id": 4, "desc": "of no video", "ts": [0, 1]},
    "5": same | {"clip_id": 5, "desc": "times", "ts": [3]},
  }
  (root / "cap.db").rename(root / "before")
  region_files.lmdb_write(root / "cap.db", packed(entries) | {b"6": b"no frame"})
  one, *bad = hero_lmdb.tvc(root)
  assert (one.key, one.captions, one.start) == ("1", ("one",), 2.0)
  assert 2.0 < one.end < 2.001  # a moment of one instant
  assert [r.key for r in bad] == ["caption 2", "caption 3", "caption 5", "caption 6"]
  for row, reason in zip(
    bad, ("another video or time", "names no video", "unpack", "LZ4"), strict=True
  ):
    assert reason in row.error


def lines(folder):
  """The same clips as the published JSON lines."""
  folder.mkdir()
  rows = []
  for clip, (video, ts, told) in TOLD.items():
    same = {"vid_name": video, "duration": 61.46, "ts": ts, "clip_id": int(clip)}
    descs = [
      {"desc": t, "type": kind, "from_retrieval": False, "desc_id": int(c)}
      for c, (t, kind) in told.items()
    ]
    rows.append(same | {"descs": descs})
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "tvc_train_release.jsonl").write_text(text)
  return folder


def test_the_hidden_test_set_has_no_captions(tmp_path):
  line = {"vid_name": HOUSE, "duration": 9.0, "ts": [1.0, 2.0], "clip_id": 7}
  (tmp_path / "tvc_test_public_release.jsonl").write_text(json.dumps(line) + "\n")
  (row,) = tvr.tvc(tmp_path)
  assert (row.key, row.split, row.captions, row.error) == ("7", "test", (), "")


def captioned(out):
  given = dict(task="clip_features", dir=str(out), text="caption", rows=4)
  given |= dict(unit="seconds", max_seconds=20, max_words=10, split="train")
  vocab = shards.pieces()
  (batch,) = batches.evaluation(given, vocab=vocab)
  contract.check(batch)
  return batch, given, vocab


def test_both_forms_give_the_same_batches_for_the_captioner(hero):
  made = []
  for format, source in (
    ("hero_lmdb:tvc", hero / "tvc_train.db"),
    ("tvr:tvc", lines(hero / "lines")),
  ):
    feature_stores._database.cache_clear()
    out = hero / format.partition(":")[0]
    at = dict(features=str(hero / "resnet_slowfast_1.5"), rates="auto")
    info = clip_features.prepare(source, out, format=format, **at, quiet=True)
    assert info["splits"]["train"]["num_examples"] == 3
    batch, given, vocab = captioned(out)
    made.append(batch)
  for key, x in made[0].items():
    np.testing.assert_array_equal(made[1][key], x, err_msg=key)
  assert batch["example_mask"].tolist() == [True] * 4  # a row for each caption
  clips = [c for c in TOLD for _ in TOLD[c][2]]
  words = [t for c in TOLD for t in texts(c)]
  for row, (clip, text) in enumerate(zip(clips, words, strict=True)):
    first, last = FRAMES[clip]
    whole = features(TOLD[clip][0] == HOUSE)
    steps = batch["clips_features"][row][batch["clips_mask"][row]]
    assert {tuple(x) for x in steps} <= {tuple(x) for x in whole[first:last]}
    assert tuple(whole[first]) == tuple(steps[0])
    real = batch["text_ids"][row][batch["text_mask"][row]]
    want = [vocab.spec.cls_id, *vocab.encode(text), vocab.spec.sep_id]
    assert real.tolist() == want[: len(real)]
  train = next(batches.build(given | {"rows": 3}, vocab=vocab))
  assert sorted(train["example_id"].tolist()) == [0, 1, 2]
  model = resolve.model(
    dict(name="captioner", variant="mu", feature_dim=DIM), inject={"vocab": vocab.spec}
  )
  one = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in train.items()}
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
  variables = jax.eval_shape(model.init, keys, one)
  loss = lambda v, b: caption.caption(
    state.make_apply(model), v, b, jax.random.key(0), vocab=vocab.spec
  )[0]
  terms = jax.eval_shape(loss, variables, one)
  assert terms["caption"].total.shape == ()
