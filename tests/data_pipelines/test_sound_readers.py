"""Readers of sounds and speech: literal files."""

import pytest

from data_pipelines.readers import (
  audioset,
  esc50,
  speech,
)
from tests.reference.layout import put
from vlp_jax import errors

AUDIOSET = (
  "# Segments csv created Sun Mar  5 10:54:31 2017\n"
  "# num_ytids=20371, num_segs=20371, num_unique_labels=527, "
  "num_positive_labels=51804\n"
  "# YTID, start_seconds, end_seconds, positive_labels\n"
  '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
  '--ZhevVpy1s, 50.000, 60.000, "/m/none"\n'
)
AUDIOSET_CLASSES = (
  "index,mid,display_name\n"
  '0,/m/09x0r,"Speech"\n'
  '1,/m/05zppz,"Male speech, man speaking"\n'
  '2,/t/dd00088,"Gush"\n'
)


def test_audioset(tmp_path):
  put(
    tmp_path,
    {"eval_segments.csv": AUDIOSET, "class_labels_indices.csv": AUDIOSET_CLASSES},
  )
  row, unknown = audioset.read(tmp_path)
  assert (row.media, row.split, row.end) == ("--PJHxphWEs", "test", None)
  assert row.labels == {"labels": ["Speech", "Gush"], "targets": [0, 2]}
  assert "--PJHxphWEs_30000_40000" in row.also
  assert "/m/none" in unknown.error
  whole = audioset.read(tmp_path, whole=True)[0]
  assert (whole.start, whole.end, whole.also) == (30.0, 40.0, ())


def test_ontology(tmp_path):
  def node(name, *children, **more):
    return {"id": name, "name": name.upper(), "child_ids": list(children), **more}

  given = [
    node("a", "b", "c", restrictions=["abstract"]),
    node("b", "d"),
    node("c", "d"),
    node("d"),
  ]
  put(tmp_path, {"ontology.json": given})
  nodes = audioset.ontology(tmp_path / "ontology.json")
  assert nodes["a"] == ("A", ("b", "c"), ("abstract",))
  assert audioset.above(nodes, "d") == {"a", "b", "c"}
  put(tmp_path, {"ontology.json": [node("a", "x")]})
  with pytest.raises(errors.UserError, match=r"unknown children \['x'\]"):
    audioset.ontology(tmp_path / "ontology.json")


def test_esc50_never_parts_a_recording(tmp_path):
  head = "filename,fold,target,category,esc10,src_file,take\n"
  rows = "1-1-A-0.wav,1,0,dog,True,1,A\n2-1-B-0.wav,2,0,dog,True,1,B\n"
  put(tmp_path, {"meta/esc50.csv": head + rows})
  with pytest.raises(errors.UserError, match="recording 1 is in folds 1 and 2"):
    esc50.read(tmp_path)


def test_speech_folders(tmp_path):
  put(
    tmp_path / "commands",
    {
      "yes/0a7c2a8d_nohash_0.wav": b"",
      "yes/0a7c2a8d_nohash_1.wav": b"",
      "no/1b_nohash_0.wav": b"",
      "_background_noise_/pink.wav": b"",
      "testing_list.txt": "no/1b_nohash_0.wav\n",
      "validation_list.txt": "",
    },
  )
  rows = speech.commands(tmp_path / "commands")
  assert [(r.key[:3], r.split) for r in rows] == [
    ("no/", "test"),
    ("yes", "train"),
    ("yes", "train"),
  ]
  assert rows[1].group == "0a7c2a8d"
  put(
    tmp_path / "libri",
    {
      "dev-clean/84/121123/84-121123.trans.txt": "84-121123-0000 GO DO YOU HEAR\n",
    },
  )
  (row,) = speech.librispeech(tmp_path / "libri")
  assert row.media == "dev-clean/84/121123/84-121123-0000.flac"
  assert (row.split, row.captions, row.group) == (
    "dev-clean",
    ("go do you hear",),
    "84",
  )
  put(tmp_path / "vox", {"id10001/abc/00001.wav": b"", "id10002/d/1.m4a": b""})
  assert [r.labels["speaker"] for r in speech.speakers(tmp_path / "vox")] == [
    "id10001",
    "id10002",
  ]
