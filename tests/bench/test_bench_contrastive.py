"""The benchmark of contrastive losses: its peer, its device counts, its mistakes."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch.bench import contrastive
from launch.bench.peers import dense_nce
from tests import helpers


@pytest.mark.parametrize("loss", contrastive.LOSSES)
def test_the_dense_peer_is_the_same_loss(loss):
  """Sum and gradients, with a clip and texts missing."""
  rng = np.random.default_rng(0)
  rows, candidates, width = 6, 3, 4
  video, text = rng.normal(size=(rows, width)), rng.normal(size=(rows, 3, width))
  tags = [rng.integers(0, 2, (rows, n)) for n in (5, 4)]
  where, seen = np.ones((rows, candidates), bool), np.ones(rows, bool)
  where[1], where[2, 1], seen[4] = False, False, False
  one, other = (
    jax.value_and_grad(lambda v, t, fn=fn: fn(loss, v, t, tags, where, seen), (0, 1))(
      video.astype(np.float32), text.astype(np.float32)
    )
    for fn in (contrastive.total, dense_nce.total)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), one, other)
  assert np.abs(one[1][0]).sum() > 0


def test_the_rows_of_a_device_are_the_same_at_every_count():
  views = {"nt_xent": 2}
  for devices in (8, 64, 256):
    for loss, batch, _ in contrastive.cases(devices, contrastive.LOSSES):
      assert batch * views.get(loss, 1) == 128 * devices
  found = contrastive.cases(8, ["mil_nce"])
  assert found == [("mil_nce", 1024, 5), ("mil_nce", 1024, 1)]


def test_growth_is_of_a_loss_from_a_count_to_the_next():
  line = lambda n, temp, loss="ego": dict(
    loss=loss, devices=n, candidates=1, batch=128 * n, temp_mb=temp, dense_mb=1.0 * n
  )
  lines = [line(1, 99.0), line(8, 5.0), line(64, 30.0), line(8, 2.0, "sigmoid")]
  (one,) = contrastive.growth(lines)
  assert (one["loss"], one["from"], one["devices"]) == ("ego", 8, 64)
  assert (one["temp_times"], one["dense_times"], one["batch_times"]) == (6.0, 8.0, 8.0)


def bench(*args):
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return subprocess.run(
    [sys.executable, "-m", "launch.bench.contrastive", *args],
    capture_output=True,
    text=True,
    cwd=helpers.ROOT,
    env=env,
  )


@pytest.mark.slow
@pytest.mark.multidevice
def test_a_device_count_is_compiled_for_so_many_devices():
  made = bench("--devices=8", "--width=16", "--losses=mil_nce")
  assert made.returncode == 0, made.stderr
  five, one = map(json.loads, made.stdout.splitlines())
  assert (five["devices"], five["candidates"], one["candidates"]) == (8, 5, 1)
  assert five["collectives"]["all-gather"]["count"] == 3
  assert 0 < five["traffic_mb"] == one["traffic_mb"] < five["goal_mb"]  # whatever K is
  assert five["temp_mb"] < five["dense_mb"]


@pytest.mark.parametrize(
  ("args", "says"),
  [
    (("--devices=3",), "--devices='3' has no case; known are 1, 8, 64, 256."),
    (("--losses=nce",), "known are mil_nce, nt_xent, symmetric, ego, sigmoid."),
    (("--width=0",), "--width is 0; it must be at least 1."),
  ],
)
def test_mistakes_are_one_line(args, says):
  made = bench(*args)
  assert made.returncode == 2
  assert made.stderr.startswith("error: ")
  assert made.stderr.count("\n") == 1
  assert says in made.stderr
