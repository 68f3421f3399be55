"""The windows of published evaluations against a loop that places them one by one."""

import numpy as np
import pytest

from data_pipelines import batches
from tests.reference import shards
from tests.reference import windows as reference
from vlp_jax.errors import UserError

CLIPS, SIZE = 2, 16  # 12 frames at 4 Hz, 3 s


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  return shards.clips(tmp_path_factory.mktemp("clips"), CLIPS, shards=1, sound=False)


def views(stored, **more):
  given = dict(task="narrated_clips", dir=str(stored), split="train", rows=64)
  given |= dict(fields=("video",), text="none", size=SIZE) | more
  (batch,) = batches.evaluation(given, vocab=shards.dictionary())
  return {k: v[batch["example_mask"]] for k, v in batch.items()}


@pytest.mark.parametrize(
  ("windows", "num_frames", "rate", "margin"),
  [(4, 4, 4.0, 0.0), (4, 4, 4.0, 0.4), (3, 3, 2.0, 0.4), (2, 16, 4.0, 0.4)],
)
def test_windows_begin_where_a_loop_says(stored, windows, num_frames, rate, margin):
  more = dict(windows=windows, num_frames=num_frames, frame_rate=rate)
  batch = views(stored, margin_s=margin, **more)
  assert batch["group_id"].tolist() == np.repeat(np.arange(CLIPS), windows).tolist()
  times = [k / 4 for k in range(12)]
  begin = reference.starts(3.0, num_frames, rate, windows, margin)
  for row in range(CLIPS * windows):
    start = begin[row % windows]
    want = reference.frames(times, 3.0, start, num_frames, rate)
    real = [k is not None for k in want]
    assert batch["video_mask"][row].tolist() == real
    seen = batch["video_frames"][row, :, 8, 8, 1].astype(float) / 10
    assert np.round(seen).tolist() == [k or 0 for k in want]


def test_each_view_is_seen_mirrored_too(stored):
  more = dict(windows=2, num_frames=2, mirror=True)
  batch = views(stored, **more)
  assert batch["group_id"].tolist() == [0] * 4 + [1] * 4
  x = batch["video_frames"].astype(int)
  np.testing.assert_array_equal(x[1::2], x[::2, :, :, ::-1])
  ramp = x[::2, 0, 8, :, 2]
  assert (np.diff(ramp, axis=1) >= 0).all()
  plain = views(stored, windows=2, num_frames=2)
  np.testing.assert_array_equal(plain["video_frames"], batch["video_frames"][::2])


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (dict(margin_s=-1.0), "must not be negative"),
    (dict(text="caption", mirror=True), "need other text"),
  ],
)
def test_mistakes_are_told(stored, more, message):
  with pytest.raises(UserError, match=message):
    views(stored, **({"text": "none"} | more))


def test_views_are_of_evaluation(stored):
  given = dict(task="narrated_clips", dir=str(stored), split="train", rows=2)
  with pytest.raises(UserError, match="for evaluation only"):
    batches.build(given | dict(text="none", size=SIZE, mirror=True))
