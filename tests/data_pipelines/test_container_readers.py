"""Folders, tables of pairs, webdataset tars, parquet, base64 tables: literal files."""

import base64
import io
import json
import tarfile

import pytest

from data_pipelines.readers import (
  contents,
  folder,
  pairs,
  parquet,
  violet,
  webdataset,
)
from tests.reference.layout import put
from vlp_jax import errors


def errors_of(rows):
  return [r.error for r in rows if r.error]


def test_folder_splits_classes_and_texts(tmp_path):
  names = ["train/dog/a.jpg", "valid/dog/b.mp4", "cat/c.wav", "d.webm", ".hidden/e.mp4"]
  put(tmp_path, dict.fromkeys(names, b""))
  put(tmp_path, {"d.txt": "one caption\n\ntwo  captions\n", "d.en.vtt": "WEBVTT\n"})
  rows = {r.key: r for r in folder.read(tmp_path)}
  assert set(rows) == set(names[:4])
  assert rows["train/dog/a.jpg"].labels["action"] == "dog"
  assert rows["valid/dog/b.mp4"].split == "val"
  assert rows["cat/c.wav"].labels["label"] == "cat"
  assert rows["d.webm"].captions == ("one caption", "two captions")
  assert rows["d.webm"].subtitles.endswith("d.en.vtt")
  assert len(folder.read(tmp_path, kind="sound")) == 1


def test_pairs(tmp_path):
  lines = [
    {"clip_name": "v1", "caption": "a"},
    {"clip_name": "v1", "caption": "b"},
    {"clip_name": "v2", "caption": ["c", "d"], "start": 1, "end": 2.5, "split": "val"},
    {"caption": "no file"},
  ]
  put(tmp_path, {"a.jsonl": "\n".join(map(json.dumps, lines)) + "\nnull\n[1\n"})
  rows = pairs.read(tmp_path / "a.jsonl")
  assert [r.captions for r in rows[:2]] == [("a", "b"), ("c", "d")]
  assert (rows[1].start, rows[1].end, rows[1].split) == (1.0, 2.5, "val")
  assert len(errors_of(rows)) == 3
  put(tmp_path, {"b.tsv": 'caption\tpath\nsaid "so\tvideos/x\n'})
  with pytest.raises(errors.UserError, match="no column 'text'"):
    pairs.read(tmp_path / "b.tsv", text="text")
  put(tmp_path, {"val.csv": "\ufeffvideo_id,sentence,label\nx.mp4,,run\n"})
  (row,) = pairs.read(tmp_path / "val.csv")
  assert (row.media, row.labels["action"], row.split) == ("x.mp4", "run", "val")


def test_pairs_with_gaps(tmp_path):
  text = "video,caption,start,end\na.mp4,run,3,\nb.mp4,,1,2\n,lost,1,2\nc.mp4\n"
  put(tmp_path, {"train.csv": text})
  first, silent, lost, short = pairs.read(tmp_path)
  assert (first.key, first.start, first.end) == ("a.mp4_3", 3.0, None)
  assert silent.captions == ("",)  # `prepare` drops and counts it
  assert lost.error
  assert (short.key, short.captions) == ("c.mp4", ("",))
  put(tmp_path, {"train.csv": "path,n\n,1\n"})
  assert errors_of(pairs.read(tmp_path, file="path"))


def test_webdataset(tmp_path):
  members = {
    "000/a.mp4": b"video",
    "000/a.txt": b"a caption",
    "000/a.json": b'{"caption": "other", "url": "http://x/a"}',
    "000/b.c.jpg": b"image",
    "000/b.json": b'{"caption": null, "label": 3}',
    "000/c.txt": b"alone",
    "000/d.mp4": b"video",
    "000/d.json": b"{",
  }
  with tarfile.open(tmp_path / "00000.tar", "w") as out:
    for name, data in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      out.addfile(info, io.BytesIO(data))
  rows = {r.key.rpartition("/")[2]: r for r in webdataset.read(tmp_path)}
  assert rows["a"].captions == ("a caption",)
  assert (rows["a"].media, rows["a"].member) == ("00000.tar", "000/a.mp4")
  assert rows["a"].group == "http://x/a"
  assert contents.source(tmp_path, "00000.tar", rows["a"].member) == b"video"
  assert "no media" in rows["b"].error + rows["c"].error  # "c.jpg" is no ending
  assert "JSONDecodeError" in rows["d"].error


def test_parquet(tmp_path):
  pa = pytest.importorskip("pyarrow")
  pq = pytest.importorskip("pyarrow.parquet")
  media = [{"bytes": b"one", "path": "1.wav"}, {"bytes": None, "path": "2.wav"}]
  table = {"audio": media, "text": ["a", "b"], "label": [3, None], "end": [None, 2.0]}
  pq.write_table(pa.table(table), tmp_path / "test-00000.parquet", row_group_size=1)
  rows = parquet.read(tmp_path)
  assert [r.split for r in rows] == ["test", "test"]
  assert (rows[0].captions, rows[0].labels["action"]) == (("a",), "3")
  assert (rows[1].end, rows[1].member) == (2.0, "audio#1")
  name = rows[0].media
  assert contents.source(tmp_path, name, "audio#0") == b"one"
  with pytest.raises(ValueError, match="holds no bytes"):
    contents.source(tmp_path, name, "audio#1")
  with pytest.raises(ValueError, match="no row 7"):
    contents.source(tmp_path, name, "audio#7")
  listed = pa.table({"videoid": ["x"], "caption": [["a", "b"]]})
  pq.write_table(listed, tmp_path / "list.parquet")
  (row,) = parquet.read(tmp_path / "list.parquet")
  assert (row.media, row.captions, row.member) == ("x", ("a", "b"), "")
  put(tmp_path, {"page.parquet": "<html>"})
  with pytest.raises(errors.UserError, match="is no parquet file"):
    parquet.read(tmp_path / "page.parquet")
  pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
  with pytest.raises(errors.UserError, match="no column of media"):
    parquet.read(tmp_path / "other.parquet")


@pytest.mark.parametrize("indexed", [True, False])
def test_violet(tmp_path, indexed):
  frames = [base64.b64encode(x).decode() for x in (b"one", b"two")]
  text = f"v0\t{frames[0]}\t{frames[1]}\nv1\t{frames[1]}\n"
  put(tmp_path, {"img_x.tsv": text})
  put(tmp_path, {"txt_x.json": {"train": {"v1": ["a", "b"]}, "val": {"v0": "c"}}})
  if indexed:
    put(tmp_path, {"img_x.lineidx": f"0\n{text.index('v1')}\n"})
  first, second = violet.read(tmp_path)
  assert (first.key, first.captions, first.split) == ("v1", ("a", "b"), "train")
  assert contents.source(tmp_path, first.media, first.member) == [b"two"]
  assert contents.source(tmp_path, second.media, second.member) == [b"one", b"two"]
  put(tmp_path, {"txt_x.json": {"train": {"gone": ["a"]}}})
  with pytest.raises(errors.UserError, match="no line of 'gone'"):
    violet.read(tmp_path)
