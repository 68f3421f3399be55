"""Rows in order, once or in several passes, and crops of windows."""

import numpy as np
import pytest

from data_pipelines import batches, passes
from data_pipelines.synthetic import twins as places

pytestmark = pytest.mark.usefixtures("twins")


def given(**more):
  clips = dict(task="narrated_clips", split="test", fields=("video", "label"), rows=5)
  clips |= dict(text="none", num_frames=2, frame_rate=2.0, size=32)
  return clips | dict(dir=places.place("synthetic/narrated")) | more


def same(found, want):
  pairs = list(zip(found, want, strict=True))
  equal = lambda a, b: all(np.array_equal(a[k], b[k]) for k in a | b)
  return bool(pairs) and all(equal(a, b) for a, b in pairs)


def test_an_evaluation_from_any_batch():
  want = list(batches.evaluation(given(windows=2)))
  made = passes.Passes(given(windows=2))
  assert made.num_batches == len(want) == 5
  assert same(made(), want)
  assert same(made(3), want[3:])
  assert same(made(1, 2), want[1:2])


def test_passes_draw_anew_and_hold_every_example_once():
  made = passes.Passes(given(flip=True), passes=2, seed=3)
  assert made.num_batches == 6
  found = list(made())
  for k in (0, 3):
    ids = [b["example_id"][b["example_mask"]] for b in found[k : k + 3]]
    assert np.concatenate(ids).tolist() == list(range(12))
  assert found[2]["example_mask"].sum() == 2
  first, second = found[0]["video_frames"], found[3]["video_frames"]
  assert not np.array_equal(first, second)
  again = passes.Passes(given(flip=True), passes=2, seed=3)
  assert same(again(4), found[4:])
  # Neither the batch size nor the number of hosts changes a row.
  other = passes.Passes(given(flip=True, rows=12), passes=2, seed=3)
  rows = [b["video_frames"] for b in other()]
  assert np.array_equal(rows[1][:5], second)
  halves = [
    next(passes.Passes(given(rows=6), passes=1, host=h, num_hosts=2)()) for h in (0, 1)
  ]
  assert [h["example_id"].tolist() for h in halves] == [[0, 1, 2], [3, 4, 5]]


def test_what_is_read_is_in_the_fingerprint():
  one = passes.Passes(given()).fingerprint
  assert one == passes.Passes(given()).fingerprint
  for other in (
    passes.Passes(given(), passes=1),
    passes.Passes(given(windows=2)),
    passes.Passes(given(split="train")),
  ):
    assert other.fingerprint != one


def test_crops_lie_along_the_longer_side():
  (whole,) = batches.evaluation(given(rows=12, size=64))
  assert whole["video_frames"].shape == (12, 2, 64, 64, 3)
  cropped = batches.evaluation(given(rows=72, windows=2, crops=3, size=32))
  (found,) = cropped
  assert found["group_id"].tolist() == np.repeat(np.arange(12), 6).tolist()
  middle = batches.evaluation(given(rows=24, windows=2))
  (centre,) = middle
  np.testing.assert_array_equal(found["video_frames"][1::3], centre["video_frames"])
  left, right = found["video_frames"][0::3], found["video_frames"][2::3]
  assert not np.array_equal(left, right)
  assert found["video_frames"].shape[2:] == (32, 32, 3)
