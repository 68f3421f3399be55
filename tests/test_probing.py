"""Probe jobs as a user runs them: sounds on disk, weights, features kept, mistakes."""

import importlib
import json
import wave

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import helpers
from vlp_jax import batch, evaluate, probing, resolve, restore
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.evaluators import linear_probe

MODEL = dict(name="classifier", variant="mu", num_classes=3)


def tone(path, hz, *, seconds, rate=16_000, channels=1, seed=0):
  """A 16-bit WAV file of a tone with noise."""
  noise = np.random.default_rng(seed).normal(0, 300, round(seconds * rate))
  t = np.arange(len(noise)) / rate
  x = (6000 * np.sin(2 * np.pi * hz * t) + noise).astype("<i2")
  path.parent.mkdir(parents=True, exist_ok=True)
  with wave.open(str(path), "wb") as f:
    f.setnchannels(channels)
    f.setsampwidth(2)
    f.setframerate(rate)
    f.writeframes(np.repeat(x, channels).tobytes())


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
  """Prepared ESC-50-like sounds: 3 classes of tones x 3 folds x 2; one is short."""
  prepare = importlib.import_module("data_pipelines.prepare.sounds").prepare
  at = tmp_path_factory.mktemp("sounds")
  rows = ["filename,fold,target,category,esc10,src_file,take"]
  for fold in (1, 2, 3):
    for target, hz in enumerate((220, 900, 3000)):
      for take in "AB":
        name, n = f"{fold}-{target}-{take}.wav", len(rows)
        odd = dict(channels=2, rate=22_050) if take == "B" else {}
        seconds = 0.3 if n == 1 else 0.9
        tone(
          at / "raw/audio" / name, hz * (1 + 0.01 * n), seconds=seconds, seed=n, **odd
        )
        rows.append(f"{name},{fold},{target},tone {target},False,{fold}{target},{take}")
  (at / "raw/meta.csv").write_text("\n".join(rows))
  prepare(at / "raw", at / "esc", format="esc50", quiet=True)
  return at / "esc"


def weights(at, **more):
  model = resolve.model(MODEL | more)
  made = jax.jit(lambda: model.init(jax.random.key(0), batch.zeros(model.spec())))()
  restore.export(at, nn.unbox(made), config=dict(model=MODEL | more))
  return at


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return weights(tmp_path_factory.mktemp("weights") / "tiny")


def config(data, *, rows=4, **evaluator):
  given = dict(by="fold", choose_by="fold", labels=("label",), classifier="svm")
  return dict(
    stream="audio",
    data=str(data),
    input=dict(task="sounds", split="all", seconds=0.4, rows=rows, short="loop"),
    evals=dict(
      esc=dict(evaluator="linear_probe", train=dict(passes=2), test=dict(windows=2))
      | given
      | dict(cs=(0.01, 0.1))
      | evaluator
    ),
  )


def run(given, at, checkpoint, count=1):
  return probing.run(given, at, checkpoint, devices=jax.devices()[:count], quiet=True)


def test_a_job_is_done_once_and_goes_on_where_it_stopped(sounds, tiny, tmp_path):
  out = run(config(sounds), tmp_path / "a", tiny)
  assert not out.done
  assert list(out.results) == ["esc/probe", *(f"esc/probe/fold_{k}" for k in (1, 2, 3))]
  whole = out.results["esc/probe"]
  assert whole.n == 18
  assert whole.chance == pytest.approx(1 / 3)
  assert whole.value > 0.7  # tones far apart, told even by random filters
  folds = [out.results[f"esc/probe/fold_{k}"].value for k in (1, 2, 3)]
  assert whole.value == pytest.approx(np.mean(folds))
  for part in ("svm probe", "seed 0", "leaving out one of 2 folds", "mean of 3 folds"):
    assert part in whole.protocol
  made = (tmp_path / "a/predictions/esc.jsonl").read_text().splitlines()
  made = [json.loads(line) for line in made]
  assert len(made) == 18
  right = [one["predicted"][0] == one["label"] for one in made]
  assert np.mean(right) == pytest.approx(whole.value)
  saved = json.loads((tmp_path / "a/results.json").read_text())
  assert saved["esc/probe"]["value"] == whole.value
  chunks = sorted((tmp_path / "a/features").glob("*/chunk-*.npz"))
  assert len(chunks) == 2
  before = [p.stat().st_mtime_ns for p in chunks]
  again = run(config(sounds), tmp_path / "a", tiny)
  assert again.done
  assert again.results == out.results
  # Another classifier reads the same features; a damaged chunk is made again.
  more = run(
    config(sounds, classifier="knn", options=(("k", 3),)), tmp_path / "a", tiny
  )
  assert not more.done
  assert [p.stat().st_mtime_ns for p in chunks] == before
  good = chunks[0].read_bytes()
  chunks[0].write_bytes(good[: len(good) // 2])
  assert run(config(sounds), tmp_path / "a", tiny).results == out.results
  assert chunks[0].stat().st_size == len(good)


def test_a_stopped_extraction_keeps_its_chunks(sounds, tiny, tmp_path, monkeypatch):
  want = run(config(sounds), tmp_path / "whole", tiny).results
  monkeypatch.setattr(probing.feature_store, "ROWS", 4)  # a chunk for each batch
  put, taken = probing.sharding.put, []

  def killed(made, mesh):
    taken.append(1)
    if len(taken) == 6:
      raise KeyboardInterrupt
    return put(made, mesh)

  monkeypatch.setattr(probing.sharding, "put", killed)
  with pytest.raises(KeyboardInterrupt):
    run(config(sounds), tmp_path / "cut", tiny)
  kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("features/*/chunk*")}
  assert len(kept) == 5
  monkeypatch.setattr(probing.sharding, "put", put)
  assert run(config(sounds), tmp_path / "cut", tiny).results == want
  assert all(p.stat().st_mtime_ns == t for p, t in kept.items())


@pytest.mark.multidevice
def test_the_number_does_not_depend_on_devices_or_batch_size(sounds, tiny, tmp_path):
  found = [
    run(config(sounds, rows=rows, cs=(0.1,)), tmp_path / f"{n}-{rows}", tiny, n).results
    for n, rows in ((1, 4), (2, 4), (1, 10))
  ]
  for other in found[1:]:
    assert {k: r.value for k, r in other.items()} == {
      k: r.value for k, r in found[0].items()
    }


def test_feature_shards_need_no_model(sounds, tmp_path):
  index = importlib.import_module("data_pipelines.index")
  records = importlib.import_module("data_pipelines.records")
  table, out = index.load(sounds, "all"), tmp_path / "shards"
  rng = np.random.default_rng(0)
  with index.ShardWriter(out, "all", 1) as writer:
    for label, fold in zip(table.columns["label"], table.columns["fold"], strict=True):
      x = rng.normal(size=(2, 6)) + 4 * np.eye(6)[label]
      context = {"label": int(label), "fold": int(fold), "group": f"{label}{fold}"}
      context |= {"features/0/data": x.astype("<f2").tobytes(), "features/0/width": 6}
      writer.write(0, records.encode(context, {}))
  index.write_info(out, dict(name="x", kind="clip_features", splits=["all"]))
  given = config("nowhere", by="fold")
  found = run(given, tmp_path / "job", out)
  assert found.results["esc/probe"].value == 1
  assert found.results["esc/probe"].n == len(table)
  assert run(given, tmp_path / "job", out).done
  only = config("nowhere", by="", choose_by="", cs=(0.1,))
  only["evals"]["esc"]["train"] = dict(where=dict(fold=[1, 2]))
  only["evals"]["esc"]["test"] = dict(where=dict(fold=3))
  assert run(only, tmp_path / "some", out).results["esc/probe"].n == 6
  only["evals"]["esc"]["test"] = dict(where=dict(fald=3))
  with pytest.raises(UserError, match="no 'fald'"):
    run(only, tmp_path / "odd", out)


def test_real_sounds_through_a_random_tower(tiny, tmp_path):
  prepare = importlib.import_module("data_pipelines.prepare.sounds").prepare
  prepare(
    helpers.shared("data/audio/esc10_fold1"),
    tmp_path / "esc10",
    format="esc50",
    quiet=True,
  )
  given = config(tmp_path / "esc10", rows=16, by="group", choose_by="", cs=(0.01,))
  given["input"]["seconds"] = 1.0
  given["evals"]["esc"] |= dict(train=dict(passes=1), test=dict(windows=1), by="")
  out = run(given, tmp_path / "job", tiny).results["esc/probe"]
  assert out.n == 79
  assert out.chance < 0.2
  assert (
    out.value > 0.5
  )  # trained on what it is tested on: the features tell clips apart


def test_mistakes_are_told_before_anything_is_computed(sounds, tiny, tmp_path):
  wide = weights(tmp_path / "wide", front_end="mmv")
  with pytest.raises(UserError, match=r"stores sound at 16000 Hz.*--audio_hz 48000"):
    run(config(sounds), tmp_path / "a", wide)
  with pytest.raises(UserError, match="method 'encode_smell'"):
    run(config(sounds) | dict(method="encode_smell"), tmp_path / "a", tiny)
  with pytest.raises(UserError, match="smell"):
    run(config(sounds) | dict(output="smell"), tmp_path / "b", tiny)
  with pytest.raises(UserError, match=r"wants \['label_action'\]"):
    run(config(sounds, labels=("action",)), tmp_path / "b", tiny)
  with pytest.raises(UserError, match="Did you mean 'audio'"):
    run(config(sounds) | dict(stream="audi"), tmp_path / "a", tiny)
  with pytest.raises(UserError, match="dataset_info"):
    run(config(tmp_path / "nothing"), tmp_path / "a", tiny)
  with pytest.raises(UserError, match="unknown key"):
    run(config(sounds, classfier="svm"), tmp_path / "a", tiny)
  variables = restore.load_variables(tiny)
  variables["params"]["audio_tower"]["trunk"].pop("stem")
  restore.export(tmp_path / "part", variables, config=dict(model=MODEL))
  with pytest.raises(CheckpointError, match=r"lack 1 .*trunk/stem"):
    run(config(sounds), tmp_path / "c", tmp_path / "part")
  restore.export(tmp_path / "bare", restore.load_variables(tiny), config={})
  with pytest.raises(CheckpointError, match="names a model"):
    run(config(sounds), tmp_path / "a", tmp_path / "bare")


def test_a_recording_in_two_folds_is_refused():
  rows = dict(
    label=np.array([0, 1, 0, 1]),
    label_fold=np.array([1, 1, 2, 2]),
    label_group=np.array([7, 8, 7, 9]),
    group_id=np.arange(4),
    audio_features=np.eye(4, dtype=np.float32),
  )
  given = dict(labels=("label",), output="audio_features", method=None, by="fold")
  apply = lambda variables, batch, **_: (batch, {})
  probe = linear_probe.Evaluator(apply, [rows], [rows], cs=(1.0,), **given)
  with pytest.raises(ValueError, match=r"group 7 straddles folds \[1, 2\]"):
    dict(probe.run({}))


def test_part_of_another_run_starts_a_fine_tuning(tiny):
  model = resolve.model(MODEL | dict(num_classes=5))
  fresh = nn.unbox(model.init(jax.random.key(1), batch.zeros(model.spec())))
  old = restore.load_variables(tiny)
  part = evaluate.part(fresh, old, "_tower/")
  assert set(part) == {"params", "batch_stats"}
  flat, kept = evaluate.flat(part), evaluate.flat(old)
  assert all((flat[k] == kept[k]).all() for k in flat)
  assert not [k for k in flat if "classifier" in k]
  with pytest.raises(CheckpointError, match="finds 0 variables here"):
    evaluate.part(fresh, old, "video_tower")
