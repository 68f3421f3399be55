"""Features of windows as shards that stream again: restarts, damage, clusters."""

import os
import pathlib

import numpy as np
import pytest

from data_pipelines import batches, feature_shards, index, records
from data_pipelines.readers import feature_sets
from data_pipelines.tasks import clip_windows
from data_pipelines.transforms import tokens
from tests.reference import shards
from vlp_jax import errors, kmeans

CLIPS, FRAMES, RATE = 7, 14, 4.0  # 3.5 s


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  return shards.clips(tmp_path_factory.mktemp("clips"), CLIPS, frames=FRAMES)


def forward(part):
  """Mean red and green of the real frames, and their number: which clip, which time."""
  out, ids = [], []
  for batch in part:
    frames, mask = batch["video_frames"].astype(np.float32), batch["video_mask"]
    total = np.einsum("bthwc,bt->bc", frames, mask.astype(np.float32))
    mean = total / frames[0, 0, ..., 0].size / np.maximum(mask.sum(1, keepdims=True), 1)
    mean[:, 2] = mask.sum(1)
    out.append(mean[batch["example_mask"]])
    ids.append(batch["example_id"][batch["example_mask"]])
  return np.concatenate(out), np.concatenate(ids)


def split(clips, *, frames=4, stride=4, rows=5, **more):
  given = dict(task="clip_windows", dir=str(clips), split="train", rows=rows, size=16)
  given |= dict(num_frames=frames, stride=stride, **more)
  whole = batches.evaluation(given)
  times = dict(window_s=frames / RATE, stride_s=stride / RATE)
  return feature_shards.Split(whole, forward, **times)


def write(clips, out, **given):
  source = split(clips, **given)
  about = dict(info={"name": "toy"}, settings={"weights_sha256": "0"}, quiet=True)
  return feature_shards.write(out, {"train": source}, **about)


def stored(at):
  """{key: (context, lists)} of all records."""
  found = {}
  for path in sorted(pathlib.Path(at).glob("*.tfrecord")):
    with path.open("rb") as f:
      for _, payload in records.read(f):
        context, lists = records.decode(payload)
        found[context["key"][0].decode()] = context, lists
  return found


@pytest.fixture(scope="module")
def made(clips, tmp_path_factory):
  out = tmp_path_factory.mktemp("features")
  write(clips, out)
  return out


def test_windows_follow_each_other(clips):
  assert clip_windows.count(3.5, 1.0, 1.0, RATE) == 3
  assert clip_windows.count([0.2, 1.0, 2.9, 3.5], 1.0, 0.5, RATE).tolist() == [
    1,
    1,
    5,
    6,
  ]
  source = split(clips, frames=4, stride=2)
  definition = source.whole._source.definition
  assert definition.sub[:7].tolist() == [0, 1, 2, 3, 4, 5, 0]
  seen = 0
  for batch in source.whole:
    for i in np.flatnonzero(batch["example_mask"]):
      start = definition.sub[seen] * 0.5
      np.testing.assert_allclose(batch["video_times"][i], start + np.arange(4) / RATE)
      assert batch["video_mask"][i].all()
      assert batch["example_id"][i] == seen
      assert batch["group_id"][i] == definition.record[seen]
      seen += 1
  assert seen == CLIPS * 6


def test_records_hold_features_and_what_belongs_to_them(made):
  info = index.read_info(made)
  assert info["kind"] == "clip_features"
  assert info["features"] == [{"width": 3, "rate_hz": 1.0}]
  table = index.load(made, "train")
  assert table.columns["num_features"].tolist() == [3] * CLIPS
  found = stored(made)
  assert sorted(found) == [f"clip-{k}" for k in range(CLIPS)]
  for k in range(CLIPS):
    context, lists = found[f"clip-{k}"]
    x = np.frombuffer(context["features/0/data"][0], "<f2").reshape(3, 3)
    np.testing.assert_allclose(x[:, 0], 10 * k, atol=4)
    np.testing.assert_allclose(x[:, 1], [15, 55, 95], atol=4)  # red, green of JPEGs
    assert x[:, 2].tolist() == [4, 4, 4]
    times = np.frombuffer(context["features/0/times"][0], "<f4").reshape(3, 2)
    assert times.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert context["label/action"][0] == k % 5
    assert context["duration_s"][0] == 3.5
    assert len(lists["caption/text"]) == 2
    assert len(lists["narration/start"]) == k % 4
    assert not {"video/frames", "audio/pcm", "video/times"} & {*context, *lists}


def test_they_stream_again(made):
  given = dict(task="clip_features", dir=str(made), split="train", rows=4)
  given |= dict(unit="seconds", max_seconds=4)
  batch = next(iter(batches.evaluation(given)))
  assert batch["clips_features"].shape == (4, 4, 3)
  np.testing.assert_allclose(batch["clips_features"][0, :3, 1], [15, 55, 95], atol=4)


def test_a_stopped_run_goes_on_with_the_same_bytes(clips, tmp_path, monkeypatch):
  monkeypatch.setattr(feature_shards, "PER_SHARD", 2)
  whole = tmp_path / "whole"
  write(clips, whole)
  calls = []

  def stopped(part):
    calls.append(part)
    if len(calls) == 4:
      raise KeyboardInterrupt
    return forward(part)

  source, cut = split(clips), tmp_path / "cut"
  source.forward = stopped
  about = dict(info={"name": "toy"}, settings={"weights_sha256": "0"}, quiet=True)
  with pytest.raises(KeyboardInterrupt):
    feature_shards.write(cut, {"train": source}, **about)
  left = [p.name for p in sorted(cut.glob("*.tfrecord"))]
  assert 0 < len(left) < 4
  before = {n: os.stat(cut / n).st_mtime_ns for n in left}
  write(clips, cut)
  names = [p.name for p in sorted(whole.iterdir())]
  assert names == [p.name for p in sorted(cut.iterdir())]
  for name in names:
    assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
  assert before == {n: os.stat(cut / n).st_mtime_ns for n in left}
  about["settings"] = {"weights_sha256": "1"}
  with pytest.raises(errors.UserError, match="weights_sha256 '0' -> '1'"):
    feature_shards.write(cut, {"train": split(clips)}, **about)


def test_a_damaged_record_costs_itself_alone(clips, tmp_path):
  source = tmp_path / "source"
  shards.clips(source, 4, frames=FRAMES)
  table = index.load(source, "train")
  with open(table.paths[0], "r+b") as f:
    f.seek(int(table.offset[1]) + 200)
    byte = f.read(1)
    f.seek(-1, os.SEEK_CUR)
    f.write(bytes([byte[0] ^ 255]))
  written = write(source, tmp_path / "out")
  assert written["splits"]["train"] == {
    "num_examples": 3,
    "shards": 1,
    "bad_records": 1,
  }
  bad = (tmp_path / "out" / "bad_records.jsonl").read_text()
  assert "1 of 1 rows cannot be read" in bad


def test_bad_keywords_and_outputs_are_told(clips):
  for given, message in (
    (dict(stride=0), "must be positive"),
    (dict(short="no"), "black, loop"),
    (dict(fields=("sound",)), "sound"),
    (dict(fields=("audio",), audio_hz=16_000), "16000"),
  ):
    with pytest.raises(errors.UserError, match=message):
      split(clips, **given)
  source = split(clips)
  source.forward = lambda part: (np.zeros((3, 2, 2)), np.arange(3))
  with pytest.raises(errors.UserError, match="Name another --output"):
    source.features(0)


def test_feature_sets_read_shards_and_arrays_alike(made, tmp_path):
  rows = feature_sets.Features(made, seed=1)
  keys, values = zip(*rows.items(), strict=True)
  assert sorted(keys) == [f"clip-{k}" for k in range(CLIPS)]
  first, second = list(rows), list(rows)
  assert len(first) == CLIPS
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a, b)
  for key, x in zip(keys, values, strict=True):
    (tmp_path / "a").mkdir(exist_ok=True)
    np.save(tmp_path / "a" / f"{key}.npy", x)
  np.savez(tmp_path / "more.npz", one=values[0], two=values[1][0])
  arrays = feature_sets.Features(tmp_path)
  total = sum(map(len, arrays))
  assert total == 3 * CLIPS + 3 + 1
  assert arrays.width == 3
  assert arrays.identity != rows.identity
  h5py = pytest.importorskip("h5py")
  with h5py.File(tmp_path / "x.h5", "w") as f:
    f["a/b"] = np.ones((2500, 3), np.float16)
  arrays = feature_sets.Features(tmp_path, seed=2)
  assert sum(map(len, arrays)) == total + 2500


def test_feature_sets_refuse_what_they_cannot_use(made, clips, tmp_path):
  with pytest.raises(errors.UserError, match="no such file"):
    feature_sets.Features(tmp_path / "none")
  with pytest.raises(errors.UserError, match="holds no features"):
    feature_sets.Features(tmp_path)
  index.write_info(clips, {"kind": "narrated_clips", "splits": ["train"]})
  with pytest.raises(errors.UserError, match=r"launch\.extract"):
    feature_sets.Features(clips)
  np.save(tmp_path / "a.npy", np.ones((4, 3), np.float32))
  np.save(tmp_path / "b.npy", np.ones((4, 5), np.float32))
  with pytest.raises(errors.UserError, match="width 5, those before 3"):
    feature_sets.Features(tmp_path)
  np.save(tmp_path / "b.npy", np.full((4, 3), np.nan))
  with pytest.raises(errors.UserError, match="not all finite"):
    list(feature_sets.Features(tmp_path))
  np.save(tmp_path / "b.npy", np.array([object()]), allow_pickle=True)
  with pytest.raises(errors.UserError, match="no array that can be read"):
    feature_sets.Features(tmp_path)


def test_tokens_come_from_the_tree(made, tmp_path):
  rows = feature_sets.Features(made)
  fit = kmeans.fit(rows, branching=3, depth=2, passes=2, batch=32, save=None)
  path = tmp_path / "tree.npz"
  digest = fit.tree.save(path)
  transform = tokens.Tokens(path, digest=digest, keep=True)
  assert (transform.size, transform.digest) == (9, digest)
  x = np.stack([x for _, x in rows.items()]).astype(np.float32)
  mask = np.ones(x.shape[:2], bool)
  mask[2, 1:], x[2, 1:] = False, np.nan
  batch = transform({"clips_features": x, "clips_mask": mask})
  assert batch["clips_tokens"].dtype == np.int32
  np.testing.assert_array_equal(batch["clips_tokens"][mask], fit.tree.assign(x[mask]))
  assert not batch["clips_tokens"][~mask].any()
  assert "clips_features" not in tokens.Tokens(path)(batch)
  with pytest.raises(errors.UserError, match="features of width 4"):
    transform({"clips_features": np.zeros((1, 1, 4)), "clips_mask": mask[:1, :1]})
  with pytest.raises(errors.CheckpointError, match="ids of one tree"):
    tokens.Tokens(path, digest="1" * 64)
