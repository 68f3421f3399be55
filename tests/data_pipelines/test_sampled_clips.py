"""The samplers of published systems on stored clips: frames, texts, rows."""

import numpy as np
import pytest

from data_pipelines import batches, index
from data_pipelines.tasks import clip_records
from tests.reference import shards
from vlp_jax import batch as contract
from vlp_jax.errors import UserError

CLIPS, SIZE = 8, 16  # clip k has k % 4 narrations, 12 frames at 4 Hz


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  return shards.clips(tmp_path_factory.mktemp("clips"), CLIPS, shards=1, sound=False)


def rows_of(stored, rows, **more):
  """All rows in order, without padding."""
  given = dict(task="sampled_clips", dir=str(stored), split="train", rows=rows)
  given |= dict(size=SIZE) | more
  (batch,) = batches.evaluation(given, vocab=shards.dictionary())
  contract.check(batch)
  return {k: v[batch["example_mask"]] for k, v in batch.items()}


def shown(batch):
  """Numbers of the stored frames: the green channel has ten times the number."""
  pixel = batch["video_frames"][..., SIZE // 2, SIZE // 2, 1].astype(float)
  return np.round(pixel / 10).astype(int)


def test_segments_of_whole_clips(stored):
  batch = rows_of(stored, 2 * CLIPS)
  assert len(batch["example_id"]) == 2 * CLIPS  # a row a caption
  assert batch["relevance"].tolist() == np.repeat(np.arange(CLIPS), 2).tolist()
  assert (shown(batch) == [1, 4, 7, 10]).all()
  np.testing.assert_allclose(batch["video_times"][0], np.array([1, 4, 7, 10]) / 4)
  ids = batch["text_ids"][2][batch["text_mask"][2]].tolist()
  assert ids == shards.dictionary().encode(shards.sentence(1, 3))
  many = rows_of(stored, CLIPS, text="none", num_frames=14)
  assert many["video_mask"].sum(1).tolist() == [12] * CLIPS  # there are no more
  assert (shown(many)[:, :12] == np.arange(12)).all()


def test_sparse_clips_in_evaluation_and_training(stored):
  more = dict(text="none", frames="sparse", clips=2, num_frames=2)
  batch = rows_of(stored, CLIPS, **more)
  assert batch["video_frames"].shape == (CLIPS, 2, 2, SIZE, SIZE, 3)
  # (3 s - 0.5 s) k / 2: at 0 s and 1.25 s
  assert (shown(batch) == [[0, 1], [5, 6]]).all()
  given = dict(task="sampled_clips", dir=str(stored), split="train", rows=4, size=SIZE)
  stream = batches.build(given | more)
  seen = np.concatenate([shown(next(stream)) for _ in range(6)])
  assert len(np.unique(seen[..., 0])) > 5
  assert (seen[..., 1] - seen[..., 0] == 1).all()
  assert (seen[:, 0] != seen[:, 1]).any()


def test_windows_of_narrations(stored):
  more = dict(window="narration", text="narration", num_frames=2)
  batch = rows_of(stored, 12, frames="even", min_time=1.0, **more)
  assert batch["group_id"].tolist() == [k for k in range(CLIPS) for _ in range(k % 4)]
  assert batch["example_id"].tolist() == list(range(12))
  last = batch["group_id"] == 3
  # 0 to 0.6 s is widened to 0 to 1, 0.7 to 1.3 to 0.5 to 1.5, ...; half a second inside
  assert shown(batch)[last].tolist() == [[1, 2], [3, 4], [6, 7]]
  words = shards.dictionary()
  for row, k in enumerate(np.flatnonzero(last)):
    ids = batch["text_ids"][k][batch["text_mask"][k]].tolist()
    assert ids == words.encode(shards.sentence(3 + row, 2))


def test_windows_as_wide_as_narrations_are_close(stored):
  table = index.load(stored, "train")
  assert clip_records.mean_gap(table) == pytest.approx(0.7, rel=1e-6)
  more = dict(window="ego", text="narration", num_frames=2)
  batch = rows_of(stored, 12, **more)
  # 0.5 s to both sides of 0.3, 1.0 and 1.7 s
  last = batch["group_id"] == 3
  assert shown(batch)[last].tolist() == [[0, 2], [2, 4], [4, 7]]
  wide = rows_of(stored, 12, alpha=0.35, **more)  # 1 s to both sides
  assert shown(wide)[last].tolist()[1] == [1, 5]
  alone = batch["group_id"] == 1
  np.testing.assert_array_equal(shown(wide)[alone], shown(batch)[alone])


def test_a_mate_is_of_the_same_scene(stored):
  given = dict(task="sampled_clips", dir=str(stored), split="train", rows=6, size=SIZE)
  given |= dict(window="ego", text="narration", num_frames=2, max_words=3)
  stream = batches.build(given | dict(scene_s=60.0), vocab=shards.dictionary())
  same = []
  for _ in range(4):
    batch = next(stream)
    contract.check(batch)
    assert batch["video_frames"].shape == (6, 2, 2, SIZE, SIZE, 3)
    assert batch["narration_ids"].shape == (6, 2, 3)
    red = batch["video_frames"][..., 8, 8, 0].astype(float) / 10
    clip = np.round(red).astype(int)
    assert (clip == clip[:, :1, :1]).all()  # of one video
    same += (
      (batch["narration_ids"][:, 0] == batch["narration_ids"][:, 1]).all(1).tolist()
    )
  assert 0 < sum(same) < len(same)
  apart = batches.build(given | dict(scene_s=0.1), vocab=shards.dictionary())
  batch = next(apart)
  np.testing.assert_array_equal(
    batch["narration_ids"][:, 0], batch["narration_ids"][:, 1]
  )


def test_candidates_around_a_narration(stored):
  more = dict(window="narration", text="narration", frames="even", num_frames=2)
  batch = rows_of(stored, 12, candidates=2, max_words=3, **more)
  assert batch["narration_ids"].shape == (12, 2, 3)
  words, last = shards.dictionary(), np.flatnonzero(batch["group_id"] == 3)
  texts = [words.encode(shards.sentence(3 + row, 2)) for row in range(3)]
  # All are as far apart: of two neighbours the later one comes in.
  for k, want in zip(last, [[0, 1], [1, 2], [1, 2]], strict=True):
    rows = zip(batch["narration_ids"][k], batch["narration_mask"][k], strict=True)
    assert [i[m].tolist() for i, m in rows] == [texts[w][:3] for w in want]
  alone = batch["group_id"] == 1
  assert batch["narration_mask"][alone].any(-1).tolist() == [[True, False]]


def test_a_narration_is_drawn_of_each_record(stored):
  given = dict(task="sampled_clips", dir=str(stored), split="train", rows=6, size=SIZE)
  given |= dict(window="narration", text="narration", frames="even", num_frames=2)
  given |= dict(min_time=0.5, candidates=2, draw=True, max_words=3)
  stream, seen = batches.build(given, vocab=shards.dictionary()), {}
  for _ in range(8):  # epochs: 6 of 8 records have narrations
    batch = next(stream)
    contract.check(batch)
    assert sorted(batch["example_id"]) == [1, 2, 3, 5, 6, 7]
    for k, ids in zip(batch["example_id"], batch["narration_ids"], strict=True):
      seen.setdefault(int(k), set()).add(ids.tobytes())
  assert (len(seen[3]), len(seen[1])) == (2, 1)
  start = batches.build(given | dict(published=True), vocab=shards.dictionary())
  contract.check(next(start))


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (dict(window="video"), "Known: clip, narration, ego"),
    (dict(frames="all"), "Known: segments, even, sparse"),
    (dict(text="narration"), "does not go with window='clip'"),
    (dict(window="ego", text="none", frames="sparse"), "goes with window='clip'"),
    (dict(clips=2), "is of frames='sparse'"),
    (dict(scene_s=60.0), "is for training on narrations"),
    (dict(draw=True, window="narration", text="none"), "draw is for training"),
    (dict(candidates=2), "candidates is of window='narration'"),
    (dict(num_frames=0), "must be positive"),
    (dict(size=99), "stores frames of 24x24"),
  ],
)
def test_mistakes_are_told(stored, more, message):
  with pytest.raises(UserError, match=message):
    rows_of(stored, 4, **more)
