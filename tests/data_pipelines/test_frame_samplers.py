"""Frame samplers against slow rules in words; HERO's alignment to a batch."""

import json

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines import batches
from data_pipelines.prepare import clip_features
from data_pipelines.transforms import frames
from data_pipelines.vocabularies import wordpiece
from tests.reference import frames as reference
from vlp_jax import batch as contract
from vlp_jax.errors import UserError


def seed(k):
  return tf.constant([7, k], tf.int64)


@pytest.mark.parametrize(("first", "last"), [(0, 10), (3, 4), (2, 9), (0, 4), (5, 105)])
def test_segments_take_one_frame_of_each(first, last):
  want = reference.edges(first, last, 4)
  at, real = frames.segments(tf.constant(first), tf.constant(last), 4)
  assert real.numpy().tolist() == [k < len(want) for k in range(4)]
  middle = [(part[0] + part[-1]) // 2 for part in want]
  assert at.numpy()[: len(want)].tolist() == middle
  seen = [set() for _ in want]
  old = [set() for _ in want]
  draw = tf.function(
    lambda s, published: frames.segments(
      tf.constant(first), tf.constant(last), 4, s, published=published
    )[0],
  )
  for k in range(60):
    for found, published in ((seen, False), (old, True)):
      for part, one in zip(found, draw(seed(k), published).numpy(), strict=False):
        part.add(int(one))
  if last - first < 20:
    assert seen == [set(part) for part in want]
    # Published: without the last frame, but where there is one alone.
    assert old == [set(part[:-1] or part) for part in want]
  else:
    assert all(s <= set(part) for s, part in zip(seen, want, strict=True))


def test_nothing_to_take_is_not_real():
  at, real = frames.segments(tf.constant(0), tf.constant(0), 3)
  assert not real.numpy().any()
  assert at.numpy().tolist() == [0, 0, 0]


def test_sparse_clips_begin_evenly_or_anywhere():
  starts = [float(frames.sparse_start(10.0, 2.0, number=k, of=4)) for k in range(4)]
  assert starts == [0.0, 2.0, 4.0, 6.0]
  assert float(frames.sparse_start(1.0, 2.0, number=3, of=4)) == 0.0
  drawn = [float(frames.sparse_start(10.0, 2.0, seed=seed(k))) for k in range(40)]
  assert 0 <= min(drawn) < 2
  assert 6 < max(drawn) <= 8


@pytest.mark.parametrize(
  ("start", "end"), [(4.0, 6.0), (0.5, 1.0), (9.0, 10.0), (2.0, 9.0), (0.0, 10.0)]
)
def test_short_narrations_are_widened_inside_the_video(start, end):
  got = frames.widened(tf.constant(start), tf.constant(end), 5.0, 10.0)
  want = reference.widened(start, end, 5.0, 10.0)
  assert [float(x) for x in got] == pytest.approx(want, abs=5e-3)
  got = frames.widened(tf.constant(1.0), tf.constant(2.0), 5.0, 3.0)
  assert [float(x) for x in got] == [0.0, 3.0]


def test_a_clip_lies_within_its_narration():
  draw = lambda k, **more: float(frames.within(1.5, 9.5, 3.2, seed(k), **more))
  drawn = [draw(k) for k in range(60)]
  assert 1.5 <= min(drawn) < 2.2
  assert 5.7 < max(drawn) <= 6.3
  assert {draw(k, published=True) for k in range(80)} == {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}
  assert float(frames.within(1.5, 9.5, 3.2)) == pytest.approx(3.9)
  assert float(frames.within(1.5, 2.0, 3.2, seed(1))) == 1.5  # no room


def test_windows_of_narrations_are_those_of_egoclip():
  times = [0.2, 1.0, 4.0, 4.5, 9.8]
  for at in range(5):
    got = frames.narration_window(tf.constant(times), at, 4.9, 10.0)
    want = reference.narration_window(times, at, 4.9, 10.0)
    assert [float(x) for x in got] == pytest.approx(want, rel=1e-6)
  # The published row: t = 3.3445, 2.967651 to 3.721266.
  beta = 2 * 4.9 * (3.721266 - 3.3445)
  got = frames.narration_window(tf.constant([3.3445, 3.3445 + beta]), 0, 4.9, 100.0)
  assert [float(x) for x in got] == pytest.approx([2.967651, 3.721266], abs=1e-4)
  alone = frames.narration_window(tf.constant([3.0]), 0, 4.9, 100.0)
  assert [float(x) for x in alone] == [2.5, 3.5]


def test_mates_are_of_the_same_stretch():
  times = tf.constant([1.0, 30.0, 59.0, 60.0, 119.0, 121.0])
  found = [
    {int(frames.scene_mate(times, at, 60.0, seed(k))) for k in range(50)}
    for at in (1, 4, 5)
  ]
  assert found == [{0, 1, 2}, {3, 4}, {5}]


def aligned(subtitles, num, most, period=1.5):
  start = tf.constant([a for a, _ in subtitles], tf.float32)
  end = tf.constant([b for _, b in subtitles], tf.float32)
  owner, keep = frames.owners(start, end, tf.constant(num), period, most=most)
  return owner.numpy().tolist(), keep.numpy().tolist()


@pytest.mark.parametrize("most", [4, 7, 30])
def test_frames_belong_to_the_subtitle_they_overlap_most(most):
  rng = np.random.default_rng(most)
  for _ in range(25):
    start = np.sort(rng.uniform(0, 30, rng.integers(1, 7)).round(2))
    length = rng.uniform(0.2, 6, len(start)).round(2)
    given = [(float(a), float(a + b)) for a, b in zip(start, length, strict=True)]
    given = [tuple(np.float32(x).item() for x in pair) for pair in given]
    num = int(rng.integers(1, 25))
    owner, keep = reference.owners(given, num, 1.5, most)
    assert aligned(given, num, most) == (owner, keep), given


def test_rules_of_alignment_by_hand():
  # Frame 1 is [1.5, 3): 1.4 s of the first, 0.1 s of the second.
  assert aligned([(0.0, 2.9), (2.9, 4.0)], 4, 4)[0] == [0, 0, 1, -1]
  # Two alike: the first. A subtitle after the end of the video has no frame.
  assert aligned([(0.0, 1.5), (0.0, 1.5), (9.0, 10.0)], 3, 3) == (
    [0, -1, -1],
    [True, True, True],
  )
  # The last one over 16 s keeps 11 frames; others all.
  assert aligned([(0.0, 30.0)], 30, 30)[0] == [0] * 11 + [-1] * 19
  long = aligned([(0.0, 30.0), (31.0, 32.0)], 30, 30)[0]
  assert long[:20] == [0] * 20
  # What loses frames at the end is the last that is kept.
  owner, keep = aligned([(0.0, 3.0), (3.0, 9.0), (4.0, 5.0)], 10, 3)
  assert owner == [0, 0, 1]
  assert keep == [True, True, False]
  assert aligned([], 3, 4) == ([-1] * 4, [])


TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "now", "cut", "onion")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
  """Three videos of HERO's rate: subtitles, none at all, two networks of one length."""
  root = tmp_path_factory.mktemp("hero")
  for network, width, extra in (("a", 3, 0), ("b", 2, 1)):
    (root / network).mkdir()
    for k, video in enumerate(("talk", "mute")):
      x = np.arange((9 + extra) * width).reshape(-1, width) + 100 * k
      np.save(root / network / f"{video}.npy", x.astype(np.float16))
  said = {
    "talk": {
      "start": [0.1, 3.2],
      "end": [2.8, 7.0],
      "text": ["now cut", "onion onion"],
    },
    "mute": {"start": [], "end": [], "text": []},
  }
  (root / "caption.json").write_text(json.dumps(said))
  out = root / "out"
  rate = 1 / 1.5
  clip_features.prepare(
    root,
    out,
    format="howto100m",
    features=f"{root}/a,{root}/b",
    rates=f"{rate},{rate}",
    quiet=True,
  )
  return out


def test_subtitles_and_frames_in_a_batch(told):
  vocab = wordpiece.Vocabulary(TOKENS)
  given = dict(task="subtitled_clips", dir=str(told), split="train", rows=2)
  given |= dict(max_frames=12, max_subtitles=3, max_words=3)
  (batch,) = batches.evaluation(given, vocab=vocab)
  contract.check(batch)
  talk = int(batch["clips_features"][1, 0, 0] == 0)
  mute = 1 - talk
  assert batch["clips_mask"].sum(1).tolist() == [9, 9]  # the shorter network
  assert batch["clips_features"].shape == (2, 12, 5)
  assert batch["clips_times"][talk, 2].tolist() == [3.0, 4.5]
  assert batch["clips_subtitle"][talk].tolist() == [0, 0, 1, 1, 1, *[-1] * 7]
  assert batch["clips_subtitle"][mute].tolist() == [*[0] * 5, *[1] * 4, *[-1] * 3]
  assert batch["subtitle_ids"][talk].tolist() == [[3, 6, 7], [3, 8, 8], [0, 0, 0]]
  assert batch["subtitle_mask"][talk].sum(1).tolist() == [3, 3, 0]
  assert batch["subtitle_ids"][mute].tolist() == [[3, 0, 0], [3, 0, 0], [0, 0, 0]]
  assert batch["subtitle_mask"][mute].sum(1).tolist() == [1, 1, 0]
  first = next(batches.build(given | dict(first="cls", max_subtitles=1), vocab=vocab))
  assert set(first["subtitle_ids"][:, 0, 0].tolist()) == {2}
  # Frames of a subtitle for which there is no room belong to none.
  row = first["clips_subtitle"][first["example_id"] == batch["example_id"][talk]][0]
  assert row.tolist() == [0, 0, *[-1] * 10]
  for bad, message in (
    (dict(first="pad"), "Known: sep, cls"),
    (dict(text="query"), "Known: none, caption"),
    (dict(max_words=2), "max_words from 3 on"),
  ):
    with pytest.raises(UserError, match=message):
      batches.evaluation(given | bad, vocab=vocab)
