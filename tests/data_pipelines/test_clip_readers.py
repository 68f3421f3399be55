"""Readers of clips and sounds: the real files' counts, and what all formats share."""

import collections
import json
import zipfile

import pytest

from data_pipelines.readers import (
  actions,
  audioset,
  clip_row,
  didemo,
  ego,
  esc50,
  folder,
  locate,
  speech,
  tables,
  tvr,
  webvid,
  youcook2,
)
from tests import helpers
from tests.reference.layout import put
from vlp_jax import errors


def errors_of(rows):
  return [r.error for r in rows if r.error]


# The files of ../shared/data: counts and rows as its README has them.


def test_youcook2_real():
  rows = youcook2.read(helpers.shared("data/annotations/youcook2"))
  assert len(rows) == 3350
  assert not errors_of(rows)
  first = rows[0]
  assert (first.media, first.start, first.end) == ("xHr8X2Wpmno", 47.0, 60.0)
  assert first.captions == ("pick the ends off the verdalago",)
  assert (first.split, first.labels["recipe"]) == ("val", "226")
  assert len({r.key for r in rows}) == 3350


def test_tvr_real():
  at = helpers.shared("data/annotations/tvr")
  rows = tvr.read(at)
  assert (len(rows), errors_of(rows)) == (2000, [])
  assert rows[0].media == "friends_s01e03_seg02_clip_19"
  assert (rows[0].start, rows[0].end, rows[0].key) == (16.48, 33.87, "90200")
  kinds = collections.Counter(r.labels["type"] for r in rows)
  assert set(kinds) == {"v", "t", "vt"}
  videos = tvr.read(at, unit="video")
  assert len(videos) == len({r.media for r in rows})
  assert sum(len(v.said) for v in videos) == 2000


def test_didemo_real():
  at = helpers.shared("data/annotations/didemo")
  rows = didemo.read(at)
  assert (len(rows), errors_of(rows)) == (1000, [])
  row = rows[0]
  assert row.captions == ("the man in the hat briefly bends over the machine",)
  assert (row.key, row.start, row.end) == ("49152", 5.0, 10.0)  # three of four say 1
  assert row.labels["times"] == [1, 1, 1, 1, 1, 1, 0, 0]
  assert all(0 <= r.start < r.end <= 30 and r.start % 5 == 0 for r in rows)
  paragraphs = didemo.read(at, unit="paragraph")
  assert sum(len(r.said) for r in paragraphs) == 1000
  assert row.captions[0] in paragraphs[0].captions[0]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_hmdb51_real(number):
  """70 + 30 clips of each of 51 classes in every split: the official numbers."""
  rows = actions.read(
    helpers.shared("data/annotations/hmdb51/hmdb51.csv"), split_number=number
  )
  found = collections.Counter((r.split, r.labels["action"]) for r in rows)
  assert len(rows) == 5100
  assert len(found) == 102
  assert {n for (s, _), n in found.items() if s == "train"} == {70}
  assert {n for (s, _), n in found.items() if s == "test"} == {30}
  names = [line.split(",")[1] for line in _hmdb_lines()]
  assert len(names) == 6766


def _hmdb_lines():
  path = helpers.shared("data/annotations/hmdb51/hmdb51.csv")
  return path.read_text().splitlines()[1:]


def test_audiocaps_real():
  rows = audioset.audiocaps(helpers.shared("data/annotations/audiocaps"))
  assert (len(rows), errors_of(rows)) == (495, [])
  assert {len(r.captions) for r in rows} == {5}
  assert rows[0].captions[0].startswith("Rustling occurs, ducks quack and water")
  assert rows[0].media == "vfY_TJq7n_U"
  whole = audioset.audiocaps(helpers.shared("data/annotations/audiocaps"), whole=True)
  assert (whole[0].start, whole[0].end) == (130.0, 140.0)


def test_esc10_real():
  rows = esc50.read(helpers.shared("data/audio/esc10_fold1"))
  assert len(rows) == 79
  known = {"dog": 0, "rooster": 1, "rain": 10, "sea_waves": 11, "crackling_fire": 12}
  known |= {"crying_baby": 20, "sneezing": 21, "clock_tick": 38, "helicopter": 40}
  known |= {"chainsaw": 41}
  assert {r.labels["label"]: r.labels["target"] for r in rows} == known
  assert {r.labels["fold"] for r in rows} == {1}
  assert rows[0].group == "100032"
  assert len(esc50.read(helpers.shared("data/audio/esc10_fold1"), esc10=True)) == 79


def test_fsdd_real():
  at = helpers.shared("data/audio/fsdd/fsdd_idx00-24.zip").parent
  rows = speech.read(at)
  count = collections.Counter(r.split for r in rows)
  assert count == {"train": 1200, "test": 300}
  assert set(collections.Counter(r.labels["label"] for r in rows).values()) == {150}
  assert set(collections.Counter(r.labels["speaker"] for r in rows).values()) == {250}
  takes = {int(r.key[:-4].split("_")[2]) for r in rows if r.split == "test"}
  assert takes == {0, 1, 2, 3, 4}
  held = speech.read(at, hold_out="jackson")
  assert {r.group for r in held if r.split == "test"} == {"jackson"}
  assert "jackson" not in {r.group for r in held if r.split == "train"}
  whole = speech.read(at, split="all")
  assert {r.split for r in whole} == {"all"}
  assert len(whole) == 1500
  with pytest.raises(errors.UserError, match="not both"):
    speech.read(at, split="all", hold_out="jackson")
  with pytest.raises(errors.UserError, match="none of george, jackson"):
    speech.read(at, hold_out="nobody")


def test_folders_real():
  at = helpers.shared("data/video")
  rows = folder.read(at, kind="video")
  assert len(rows) == 24
  assert sum(r.labels.get("action") == "asl_gestures" for r in rows) == 20
  sounds = folder.read(helpers.shared("data/audio/misc"), kind="sound")
  assert len(sounds) == 6
  assert any("LibriSpeech" in c for r in sounds for c in r.captions)


# What all formats share.


def test_streamed_json(tmp_path, monkeypatch):
  given = {f"k{i}": {"n": [i] * (i % 50), "t": 'say "}"'} for i in range(400)}
  given["tail"] = 12
  put(
    tmp_path, {"a.json": json.dumps(given, indent=1), "b.json": "{}", "c.json": "[1]"}
  )
  for chunk in (7, 1000, 1 << 20):
    monkeypatch.setattr(tables, "_CHUNK", chunk)
    assert dict(tables.items(tmp_path / "a.json")) == given
    assert dict(tables.items(tmp_path / "b.json")) == {}
    (tmp_path / "cut.json").write_text(json.dumps(given)[:-3])
    for name in ("c.json", "cut.json"):
      with pytest.raises(errors.UserError, match=name):
        list(tables.items(tmp_path / name))


def test_formats_by_name(tmp_path):
  assert {"howto100m", "esc50", "webdataset", "parquet"} <= set(locate.formats())
  assert not {"narrated", "tables", "nlvr"} & set(locate.formats())
  assert locate.reader("tvr:tvqa") is tvr.tvqa
  with pytest.raises(errors.UserError, match="Did you mean 'youcook2'"):
    locate.reader("youcok2")
  with pytest.raises(errors.UserError, match="Did you mean 'tvqa'"):
    locate.reader("tvr:tvqaa")
  assert locate.options("chunk_s=0,split=val", ego.read) == {
    "chunk_s": 0,
    "split": "val",
  }
  assert locate.options("esc10=true", esc50.read) == {"esc10": True}
  for text in ("esc1=true", "esc10", "esc10=maybe"):
    with pytest.raises(errors.UserError, match="options"):
      locate.options(text, esc50.read)
  with pytest.raises(errors.UserError, match="does not exist"):
    locate.rows("esc50", tmp_path / "none")


def test_files_are_found_by_path_and_stem(tmp_path):
  names = ["train/x.y/abc.mkv", "abc.webm", "a/-_Qr.mp4", ".trash/old.mp4", "note.txt"]
  put(tmp_path, dict.fromkeys(names, b""))
  files = locate.Files(tmp_path)

  def find(media, *also):
    return files.find(clip_row.ClipRow("k", media, also=also))

  assert find("train/x.y/abc.mkv") == "train/x.y/abc.mkv"
  assert find("train/x.y/abc") == "train/x.y/abc.mkv"
  assert find("abc") == "abc.webm"
  assert find("elsewhere/-_Qr.avi") == "a/-_Qr.mp4"
  assert find("none", "-_Qr") == "a/-_Qr.mp4"
  assert find("old") is None
  assert find("../abc.webm") == "abc.webm"  # by its stem, inside the root


def test_repeated_keys_are_errors():
  rows = [clip_row.ClipRow("a", "x"), clip_row.ClipRow("a", "y")]
  rows += [clip_row.ClipRow("a", "z", split="val")]
  splits = clip_row.by_split(rows)
  assert [bool(r.error) for r in splits["train"]] == [False, True]
  assert not splits["val"][0].error


def test_a_header_without_its_columns(tmp_path):
  put(tmp_path, {"results_2M_train.csv": "a,b\n1,2\n"})
  with pytest.raises(errors.UserError, match=r"no column videoid.*\['a', 'b'\]"):
    webvid.read(tmp_path)
  with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
    pass
  with pytest.raises(errors.UserError, match="holds no rows"):
    locate.rows("speech", tmp_path / "empty.zip")
