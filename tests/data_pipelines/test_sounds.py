"""Recordings: real digits and ESC-10 prepared, and their windows streamed."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines import batches, index, records
from data_pipelines.media import audio
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import shards, sounds
from data_pipelines.readers import archives
from tests import helpers
from tests.reference import shards as made
from tests.reference.layout import put, wav
from vlp_jax import batch as contract
from vlp_jax import errors


def read(out, split):
  found = []
  for path in index.load(out, split).paths:
    with open(path, "rb") as f:
      found += [records.decode(data) for _, data in records.read(f)]
  return {c["key"][0].decode(): (c, x) for c, x in found}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  """60 real digits of each split, from the zip."""
  source = pathlib.Path(helpers.shared("data/audio/fsdd/fsdd_idx00-24.zip"))
  out = tmp_path_factory.mktemp("digits") / "out"
  line = ["sounds", "--source", str(source), "--out", str(out), "--format", "speech"]
  line += ["--audio_hz", "8000", "--limit", "60", "--processes", "1"]
  assert command.main(line) == 0
  return out


def test_real_digits_sample_for_sample(digits):
  source = pathlib.Path(helpers.shared("data/audio/fsdd/fsdd_idx00-24.zip"))
  found = read(digits, "test") | read(digits, "train")
  assert len(found) == 120
  for name in ("0_george_0.wav", "0_george_10.wav"):
    context, lists = found[name]
    raw = archives.read(source, name)
    want = np.frombuffer(raw[raw.index(b"data") + 8 :], "<i2")
    pcm = np.frombuffer(context["audio/pcm"][0], "<i2")
    np.testing.assert_array_equal(pcm, want[: len(pcm)])
    assert len(pcm) == len(want)
    assert context["speaker"] == [b"george"]
    assert lists["caption/text"] == [[b"zero"]]
  assert all(int(k[:-4].split("_")[2]) < 5 for k in read(digits, "test"))
  info = json.loads((digits / index.INFO).read_text())
  assert info["kind"] == "sounds"
  assert info["classes"]["label"][0] == "zero"


def test_silence_around_a_word_is_cut(tmp_path):
  source = pathlib.Path(helpers.shared("data/audio/fsdd/fsdd_idx00-24.zip"))
  given = dict(format="speech", audio_hz=8000, limit=30, quiet=True)
  sounds.prepare(source, tmp_path / "whole", **given)
  sounds.prepare(source, tmp_path / "cut", trim_db=35.0, **given)
  whole, cut = (read(tmp_path / k, "test") for k in ("whole", "cut"))
  for name, (context, _) in whole.items():
    pcm = np.frombuffer(context["audio/pcm"][0], "<i2")
    power = [
      (pcm[max(i - 80, 0) : i + 80].astype(float) ** 2).sum() for i in range(len(pcm))
    ]
    loud = np.flatnonzero(np.array(power) > max(power) * 10**-3.5)
    want = pcm[loud[0] : loud[-1] + 1]
    np.testing.assert_array_equal(
      np.frombuffer(cut[name][0]["audio/pcm"][0], "<i2"), want
    )
    assert cut[name][0]["duration_s"][0] == pytest.approx(len(want) / 8000)
  nothing = np.zeros(50, np.int16)
  assert len(audio.trim(nothing, rate_hz=8000, db=35)) == 50


def test_every_real_esc10_clip(tmp_path):
  source = pathlib.Path(helpers.shared("data/audio/esc10_fold1/meta.csv")).parent
  info = sounds.prepare(
    source, tmp_path / "out", format="esc50", audio_hz=8000, max_s=6.0, quiet=True
  )
  assert info["splits"]["all"]["num_examples"] == 79
  assert info["classes"]["label"][41] == "chainsaw"
  assert info["classes"]["label"][2] == ""
  table = index.load(tmp_path / "out", "all")
  duration = table.columns["duration_s"]
  # Two of the files are of 7 s, though the set is said to be of 5 s: cut by max_s.
  assert (duration == 6.0).sum() == 2
  np.testing.assert_allclose(duration[duration != 6.0], 5.0, atol=0.05)
  assert set(table.columns["fold"]) == {1}
  labels, counts = np.unique(table.columns["label"], return_counts=True)
  assert labels.tolist() == [0, 1, 10, 11, 12, 20, 21, 38, 40, 41]
  assert counts.sum() == 79
  given = {"task": "sounds", "dir": str(tmp_path / "out"), "split": "all", "rows": 8}
  ten = batches.evaluation({**given, "seconds": 1.0, "windows": 10})
  groups = np.concatenate([b["group_id"][b["example_mask"]] for b in ten])
  np.testing.assert_array_equal(groups, np.repeat(np.arange(79), 10))
  with pytest.raises(errors.UserError, match="no example of 79"):
    batches.evaluation({**given, "where": {"fold": [2, 3, 4, 5]}})


SECONDS = (0.5, 2.0, 3.0)


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
  """Three recordings, of which sample k is k; two captions each."""
  root = tmp_path_factory.mktemp("ramps")
  files = {f"{k}.wav": wav(np.arange(round(8000 * s))) for k, s in enumerate(SECONDS)}
  rows = [
    {"audio": f"{k}.wav", "caption": [f"sound {k}", f"noise {k}"], "label": "ab"[k % 2]}
    for k in range(3)
  ]
  put(root, files | {"list.jsonl": "\n".join(map(json.dumps, rows))})
  sounds.prepare(
    root / "list.jsonl", root / "out", format="pairs", audio_hz=8000, quiet=True
  )
  return {"task": "sounds", "dir": str(root / "out"), "split": "train", "rows": 3}


def test_windows_cover_a_recording(ramps):
  (one,) = batches.evaluation({**ramps, "rows": 9, "windows": 3, "seconds": 1.0})
  contract.check(one)
  assert one["audio_samples"].dtype == np.int16
  assert one["audio_samples"].shape == (9, 8000)
  assert one["example_id"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  assert one["label"].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
  first = one["audio_samples"][:, 0]
  np.testing.assert_allclose(first[3:], [0, 4000, 8000, 0, 8000, 16_000], atol=1)
  np.testing.assert_array_equal(one["audio_samples"][4], first[4] + np.arange(8000))
  # Half a second is half a window: zeros that are not passed off as sound.
  assert one["audio_mask"].sum(1).tolist() == [4000] * 3 + [8000] * 6
  assert not one["audio_samples"][0, 4000:].any()


def test_short_ones_may_start_anew(ramps):
  (one,) = batches.evaluation({**ramps, "seconds": 1.2, "short": "loop"})
  assert one["audio_mask"].all()
  np.testing.assert_array_equal(one["audio_samples"][0], np.arange(9600) % 4000)
  # One window is the centre of the recording.
  np.testing.assert_array_equal(one["audio_samples"][1][:2], [3200, 3201])


def test_training_windows_depend_on_the_example_alone(ramps):
  def starts(rows, batches_taken):
    found, source = {}, batches.build({**ramps, "rows": rows, "seconds": 0.25}, seed=7)
    for _ in range(batches_taken):
      b = next(source)
      for k, x in zip(b["example_id"], b["audio_samples"], strict=True):
        np.testing.assert_array_equal(x, x[0] + np.arange(2000))
        found.setdefault(int(k), []).append(int(x[0]))
    return found

  one, three = starts(1, 30), starts(3, 10)
  assert {k: v[:10] for k, v in one.items()} == three
  for k, seconds in enumerate(SECONDS):
    assert len(set(one[k])) > 5
    assert 0 <= min(one[k]) <= max(one[k]) <= 8000 * seconds - 2000
  assert max(one[2]) > 12_000


def test_captions_of_recordings(ramps):
  vocab = made.pieces()
  given = {**ramps, "seconds": 0.25, "text": "caption", "max_words": 8, "rows": 6}
  (one,) = batches.evaluation(given, vocab=vocab)
  assert one["example_id"].tolist() == list(range(6))
  assert one["relevance"].tolist() == [0, 0, 1, 1, 2, 2]
  assert one["text_mask"].any(1).all()
  want = vocab.encode("noise 1")
  assert one["text_ids"][3][1 : 1 + len(want)].tolist() == want
  train = next(batches.build({**given, "rows": 3}, vocab=vocab, seed=1))
  assert train["text_ids"].shape == (3, 8)


def test_many_labels(tmp_path):
  head = "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"
  files = {
    "eval_segments.csv": head
    + 'a, 0.0, 10.0, "/m/1,/m/3"\nb, 30.000, 40.000, "/m/2"\n',
    "class_labels_indices.csv": "index,mid,display_name\n"
    '0,/m/0,none\n1,/m/1,"Dog, bark"\n2,/m/2,Rain\n3,/m/3,Wind\n',
    "sounds/a.wav": wav(np.arange(800)),
    "sounds/Yb.wav": wav(np.arange(800)),
  }
  put(tmp_path, files)
  info = sounds.prepare(
    tmp_path, tmp_path / "out", format="audioset", audio_hz=8000, quiet=True
  )
  assert info["classes"]["label"] == ["", "Dog, bark", "Rain", "Wind"]
  given = {"task": "sounds", "dir": str(tmp_path / "out"), "split": "test", "rows": 2}
  (one,) = batches.evaluation({**given, "seconds": 0.1, "num_classes": 5})
  assert one["label"].dtype == np.float32
  assert one["label"].tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]]


def test_damaged_recordings_go_to_quarantine(tmp_path):
  good = wav(np.arange(8000))
  files = {"a/good.wav": good, "a/cut.wav": good[:5000], "b/page.wav": b"<html>"}
  put(tmp_path, files | {"b/empty.wav": wav(np.zeros(0))})
  info = sounds.prepare(tmp_path, tmp_path / "out", format="folder", quiet=True)
  assert info["splits"]["train"] == {"num_examples": 1, "shards": 1, "bad_records": 3}
  assert info["classes"]["label"] == ["a", "b"]
  noted = (tmp_path / "out" / shards.BAD).read_text()
  assert "cut off" in noted
  assert "no sound" in noted
  assert len(audio.samples(tmp_path / "a" / "good.wav", rate_hz=8000)) == 8000


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"short": "mirror"}, r"input.short='mirror'. Known: zeros, loop"),
    ({"label": "age"}, "Known: label, speaker"),
    ({"text": "narration"}, "Known: none, caption"),
    ({"text": "caption"}, "needs a vocabulary"),
    ({"seconds": 0.0}, "must be positive"),
    ({"second": 1.0}, "Did you mean 'seconds'"),
    ({"where": {"folds": 1}}, "Did you mean 'fold'"),
  ],
)
def test_mistakes(ramps, change, message):
  with pytest.raises(errors.UserError, match=message):
    batches.evaluation({**ramps, **change})
  with pytest.raises(errors.UserError, match="windows are for evaluation"):
    batches.build({**ramps, "windows": 2})
