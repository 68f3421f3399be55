"""launch.extract and launch.cluster as a user runs them: a twin, kills, mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import helpers
from vlp_jax import batch, cluster_tree, resolve, restore, settings

CONFIG = "configs/mil_nce/howto100m.py:runlocal"
ENV = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "XLA_FLAGS": ""}


def command(module, *args):
  line = [sys.executable, "-m", module, *map(str, args)]
  return subprocess.Popen(
    line,
    cwd=helpers.ROOT,
    env=ENV,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def run(module, *args, code=0):
  child = command(module, *args)
  out, err = child.communicate(timeout=300)
  assert child.returncode == code, err
  return out + err


def weights(at):
  config = resolve.module("launch", "command").config_of(CONFIG)
  s = settings.load(settings.with_twins(settings.plain(config)))
  vocab, _ = settings.vocabulary(s)
  model = resolve.model(s.model, inject={"vocab": vocab, "vocab_size": vocab.size})
  init = jax.jit(lambda: model.init(jax.random.key(0), batch.zeros(model.spec())))
  restore.export(at, nn.unbox(init()), config=settings.plain(config))
  return dict(s.input)["dir"]


@pytest.mark.slow
def test_features_of_the_twin_become_tokens(twins, tmp_path):
  ENV["VLP_JAX_CACHE"] = os.environ["VLP_JAX_CACHE"]
  at, out, tree = tmp_path / "weights", tmp_path / "features", tmp_path / "tree.npz"
  weights(at)
  given = ["--config", CONFIG, "--checkpoint", at, "--out", out, "--quiet"]
  given += ["--window_s", 1.0, "--frame_rate", 8]
  run("launch.extract", *given)
  info = json.loads((out / "dataset_info.json").read_text())
  assert info["features"] == [{"width": 16, "rate_hz": 1.0}]
  assert info["splits"]["train"]["num_examples"] == 32
  assert len(info["settings"]["weights_sha256"]) == 64
  before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}
  run("launch.extract", *given)
  assert before == {p.name: p.stat().st_mtime_ns for p in out.glob("*.tfrecord")}
  cases = [
    (["--window_s", 0.33], "whole frames"),
    (["--output", "smell"], "smell"),
    (["--rows", 24], "begun with other settings"),
  ]
  for more, message in cases:
    assert message in run("launch.extract", *given, *more, code=2)
  given = ["--features", out, "--out", tree, "--branching", 3, "--depth", 2, "--quiet"]
  given += ["--assign", tmp_path / "tokens.npz", "--plot", tmp_path / "sizes.png"]
  said = run("launch.cluster", *given)
  found = cluster_tree.load(tree)
  assert found.digest in said
  assert "3^2 = 9 leaves" in said
  with np.load(tmp_path / "tokens.npz") as z:
    assert len(z["keys"]) == 32
    assert z["starts"][-1] == len(z["tokens"])
    assert z["tree_digest"].tobytes().hex() == found.digest
  assert (tmp_path / "sizes.png").stat().st_size > 1000
  assert "is done" in run("launch.cluster", *given)
  again = lambda *more, code=2: run("launch.cluster", *given, *more, code=code)
  for more, message in (
    (["--branching", 4, "--passes", 5], "branching=3, not 4; passes=4, not 5."),
    (["--seed", 1], "seed=0, not 1."),
    (["--split", "test"], "made of other features."),
    (["--seed", -1], "--seed=-1"),
    (["--tree", tree], "without --out"),
  ):
    said = again(*more)
    assert said.count("\n") == 1
    assert message in said
  assert cluster_tree.load(tree).digest == found.digest
  held = ["--features", out, "--split", "test", "--tree", tree, "--quiet"]
  assert found.digest in run("launch.cluster", *held, "--assign", tmp_path / "test.npz")
  with np.load(tmp_path / "test.npz") as z:
    assert len(z["keys"]) == 12


@pytest.mark.slow
def test_a_killed_clustering_ends_with_the_same_tree(tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / "x").mkdir()
  for i in range(4):
    np.save(tmp_path / "x" / f"{i}.npy", rng.normal(size=(4000, 16)).astype("f2"))
  given = ["--features", tmp_path / "x", "--branching", 4, "--depth", 3, "--passes", 6]
  given += ["--chunk_mb", 0.02, "--quiet"]
  run("launch.cluster", *given, "--out", tmp_path / "whole.npz")
  child = command("launch.cluster", *given, "--out", tmp_path / "cut.npz")
  state, end = tmp_path / "cut.state.npz", time.monotonic() + 120
  while not state.exists() and child.poll() is None and time.monotonic() < end:
    time.sleep(0.01)
  time.sleep(0.2)
  child.send_signal(signal.SIGKILL)
  child.communicate()
  assert state.exists()
  run("launch.cluster", *given, "--out", tmp_path / "cut.npz")
  digests = [cluster_tree.load(tmp_path / f"{n}.npz").digest for n in ("whole", "cut")]
  assert digests[0] == digests[1]
  assert not state.exists()


@pytest.mark.slow
def test_the_benchmark_runs():
  given = ["--points", 2000, "--dim", 16, "--branching", 3, "--depth", 2, "--rounds", 1]
  line = json.loads(run("launch.bench.kmeans", *given).splitlines()[0])
  assert line["leaves"] == 9
  assert 0.8 < line["inertia_ratio"] < 1.2
