"""The input benchmarks count and time what they say."""

import mmap
import sys
import time

import numpy as np
import pytest

from launch.bench import batching, input, jpeg, timing
from vlp_jax import errors


def test_goals_by_count_hold():
  found = batching.sizes(20_000)
  assert found.sum(1).max() <= batching.FIXED
  cases = batching.shapes(found, tokens=10_240, pack=256, max_rungs=8)
  facts = batching.count(found, cases)
  assert len(cases["ladder"]) <= 8
  assert facts["ladder"]["padding"] <= 0.13
  assert facts["packing"]["padding"] <= 0.03
  for case in ("ladder", "packing"):
    assert facts[case]["times_fewer"] >= 2.8
  assert facts["fixed"]["places"] == 64 * 160 * -(-20_000 // 64)


def test_epochs_follow_from_the_times_of_their_shapes():
  cases = {"fixed": {(2, 8): 3}, "ladder": {(4, 4): 2, (2, 8): 1}}
  spent = {"fixed 2 8": np.array([2.0]), "ladder 4 4": np.array([1.0])}
  got = batching.seconds(cases, spent | {"ladder 2 8": np.array([0.5])})
  assert {k: x.tolist() for k, x in got.items()} == {"fixed": [6.0], "ladder": [2.5]}


def test_a_step_of_every_shape_runs():
  cases = {"fixed": {(1, 16): 1}, "packing": {(2, 8): 1}}
  made = batching.steps(cases, width=64, depth=1)
  assert list(made) == ["fixed 1 16", "packing 2 8"]
  spent = timing.alternate(made, 2)
  assert {k: len(x) for k, x in spent.items()} == dict.fromkeys(made, 2)


class Slow:
  """Batches of two examples that take 5 ms each."""

  def __iter__(self):
    return self

  def __next__(self):
    time.sleep(0.005)
    return {"example_mask": np.array([True, True, False])}


def test_rates_and_overlap():
  facts = input.rate(Slow(), 0.05)
  assert 0 < facts["examples_per_s"] <= 400
  facts = input.overlap(Slow(), 4)
  assert facts["load_ms"] >= 5
  assert facts["sleep_ms"] == pytest.approx(facts["load_ms"] / 0.8)
  assert facts["step_over_sleep"] >= 1


def test_memory_that_grows_is_seen():
  kept = []

  def grow():
    while True:  # pages of its own: an array might lie in what was freed before
      piece = mmap.mmap(-1, 1 << 20)
      piece.write(b"x" * (1 << 20))
      kept.append(piece)
      yield

  facts = input.memory(grow(), 50)
  assert 900 < facts["mb_per_1000_steps"] < 1_300
  assert facts["end_mb"] > facts["start_mb"]


def test_a_missing_ffmpeg_is_said(monkeypatch):
  monkeypatch.setenv("PATH", "")
  monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
  with pytest.raises(errors.UserError, match="imageio-ffmpeg"):
    jpeg._ffmpeg()
