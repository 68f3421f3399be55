"""Batches end to end: the contract, once an epoch, resume, hosts, shapes, contents."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines import batches
from tests.reference import shards
from vlp_jax import batch as contract
from vlp_jax import errors

CLIPS, TEXTS = 13, 120


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  at = shards.clips(tmp_path_factory.mktemp("clips"), CLIPS)
  return {"task": "narrated_clips", "dir": str(at), "split": "train", "size": 16}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  at = shards.statements(tmp_path_factory.mktemp("texts"), TEXTS)
  return {"task": "text_regions", "dir": str(at), "split": "train"}


@pytest.fixture(scope="module")
def ladder(texts):
  return batches.build({**texts, "tokens": 320}, vocab=shards.pieces(), seed=3)


def equal(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def order(records, num, num_shards=2):
  """Record k of the writer is at this place of the table."""
  places = [k for s in range(num_shards) for k in range(s, num, num_shards)]
  return np.array(places)[records]


def test_ladder_epoch_shapes_and_contents(ladder):
  seen, shapes = [], set()
  while len(seen) < TEXTS:
    batch = next(ladder)
    contract.check(batch)
    mask, m = batch["example_mask"], batch["fuse_index"].shape[1]
    shapes.add(m)
    assert (m, len(mask)) in {(r.length, r.rows) for r in ladder.rungs}
    seen += batch["example_id"][mask].tolist()
    k = order(batch["example_id"], TEXTS)
    words = 1 + k * 7 % 23 + 2
    num = 1 + k % 9
    np.testing.assert_array_equal(batch["text_mask"].sum(1)[mask], words[mask])
    np.testing.assert_array_equal(batch["regions_mask"].sum(1)[mask], num[mask])
    np.testing.assert_array_equal(batch["match"][mask], k[mask] % 2)
    assert (batch["regions_features"][mask, 0] == k[mask, None]).all()
    assert (batch["text_ids"][mask, 0] == 2).all()  # [CLS]
    last = np.take_along_axis(batch["text_ids"], (words - 1)[:, None], 1)
    assert (last[mask] == 3).all()  # [SEP]
    assert not batch["text_ids"][~batch["text_mask"]].any()
    assert not batch["text_mask"][~mask].any()
    # Two statements of one image share a group, and no others.
    same = batch["group_id"][mask][:, None] == batch["group_id"][mask]
    np.testing.assert_array_equal(same, k[mask][:, None] // 2 == k[mask] // 2)
    # The gather compacts: real tokens first, in order, and the rest is padding.
    both = np.concatenate([batch["text_mask"], batch["regions_mask"]], axis=1)
    got = np.take_along_axis(both, batch["fuse_index"], axis=1)
    np.testing.assert_array_equal(got, np.arange(m) < both.sum(1, keepdims=True))
    for row, at in zip(both, batch["fuse_index"], strict=True):
      np.testing.assert_array_equal(at[: row.sum()], np.flatnonzero(row))
  assert sorted(seen) == list(range(TEXTS))
  assert len(shapes) > 2


def test_resume_is_exact_for_any_number_of_hosts(texts, ladder):
  ladder.set_state({**ladder.get_state(), "window": 0, "batch": 0})
  first = shards.take(ladder, 4)
  state = json.loads(json.dumps(ladder.get_state()))
  assert len(json.dumps(state)) < 1000
  assert set(state) == {"window", "batch", "seed", "plan", "data"}
  assert state["batch"] == 4
  want = shards.take(ladder, 12)  # over the end of the epoch
  assert ladder.get_state()["window"] > 0
  ladder.set_state(state)
  for a, b in zip(want, shards.take(ladder, 12), strict=True):
    equal(a, b)
  for num_hosts in (2, 4):  # one opened source serves all: only the rows differ
    hosts = [
      batches.Batches(ladder._source, seed=3, host=h, num_hosts=num_hosts)
      for h in range(num_hosts)
    ]
    for host in hosts:
      host.set_state(state)
    for a, *parts in zip(want[:2], *(shards.take(h, 2) for h in hosts), strict=True):
      equal(a, {k: np.concatenate([p[k] for p in parts]) for k in a})
  given = {**texts, "tokens": 320}
  other = batches.build(given, vocab=shards.pieces(), seed=4, host=1, num_hosts=2)
  batch = next(other)
  assert len(batch["example_id"]) in {r.rows // 2 for r in ladder.rungs}
  ids = [set(b["example_id"].tolist()) for b in first]
  assert not any(set(batch["example_id"].tolist()) <= i for i in ids)


def test_a_foreign_position_is_refused(ladder):
  state = ladder.get_state()
  for key, value in (("data", "0" * 64), ("plan", "1-0"), ("seed", 9)):
    with pytest.raises(errors.CheckpointError, match=key) as caught:
      ladder.set_state({**state, key: value})
    assert caught.value.exit_code == 4
  with pytest.raises(errors.CheckpointError, match="keys"):
    ladder.set_state({"window": 0})
  ladder.set_state(state)


def test_lengths_are_kept_and_long_texts_left_out(texts):
  made = batches.build(
    {
      **texts,
      "rows": 8,
      "max_tokens": 9,
      "max_regions": 5,
      "fields": ["regions_probs"],
    },
    vocab=shards.pieces(),
  )
  k = np.arange(TEXTS)
  (kept,) = pathlib.Path(texts["dir"]).glob("train.lengths-*.npz")
  np.testing.assert_array_equal(np.load(kept)["words"], 1 + order(k, TEXTS) * 7 % 23)
  assert made.num_examples == (1 + k * 7 % 23 <= 9).sum()
  batch = next(made)
  assert batch["regions_probs"].shape == (8, 5, 5)
  assert batch["text_ids"].shape[1] == 9 + 2
  exam = batches.evaluation(
    {**texts, "rows": 16, "max_tokens": 9}, vocab=shards.pieces()
  )
  for _ in range(2):  # again and again
    found = list(exam)
    assert [len(b["example_id"]) for b in found] == [16] * 8
    ids = np.concatenate([b["example_id"][b["example_mask"]] for b in found])
    np.testing.assert_array_equal(ids, k)


def test_clips_in_training(clips):
  given = {**clips, "rows": 4, "num_frames": 5, "fields": ("video", "audio", "label")}
  made = batches.build({**given, "flip": True}, vocab=shards.dictionary())
  seen, corners = [], set()
  for batch in shards.take(made, 6):
    contract.check(batch)
    k = order(batch["example_id"], CLIPS)
    seen += k.tolist()
    np.testing.assert_array_equal(batch["group_id"], batch["example_id"])
    np.testing.assert_array_equal(batch["label_shape"], k % 3)
    np.testing.assert_array_equal(batch["label_colour"], k % 2)
    np.testing.assert_array_equal(batch["label_action"], k % 5)
    frames, times = batch["video_frames"].astype(int), batch["video_times"]
    assert frames.shape == (4, 5, 16, 16, 3)
    np.testing.assert_allclose(np.diff(times, axis=1), 0.25, atol=1e-5)
    # Red tells the clip, green the time: the right frames were decoded.
    red, green = frames[..., 0].mean((2, 3)), frames[..., 1].mean((2, 3))
    assert abs(red - 10 * k[:, None]).max() < 6
    assert abs(green - 40 * times).max() < 6
    ramp = frames[..., 2].mean((1, 2))  # [B, W]: where the crop was cut
    corners |= set(np.sign(ramp[:, -1] - ramp[:, 0]).astype(int).tolist())
    # Sound of the same window: 1000 k + sample number, at 80 Hz.
    assert batch["audio_samples"].shape == (4, 100)
    assert batch["audio_mask"].all()
    first = batch["audio_samples"][:, 0] - 1000 * k
    assert abs(first / 80 - times[:, 0]).max() <= 0.126  # half a frame
    real = batch["narration_mask"].any(-1).sum(1)
    np.testing.assert_array_equal(real, k % 4)
    assert not batch["narration_ids"][~batch["narration_mask"]].any()
    vocab = shards.dictionary()
    for row, clip in enumerate(k):
      told = [vocab.encode(shards.sentence(clip + j, 2)) for j in range(clip % 4)]
      got = batch["narration_ids"][row, : clip % 4, :2].tolist()
      assert got == told
  assert corners == {-1, 1}  # some are mirrored
  for e in (seen[:12], seen[12:]):  # three full batches an epoch of 13
    assert len(set(e)) == 12
  # Another epoch draws other windows, the same position the same ones.
  made.set_state({**made.get_state(), "window": 0, "batch": 2})
  equal(shards.take(made, 4)[-1], batch)


def test_clips_in_evaluation(clips):
  given = {**clips, "rows": 8, "num_frames": 4, "text": "none", "fields": ("video",)}
  exam = batches.evaluation({**given, "windows": 3, "where": {"gallery": 0}})
  found = list(exam)
  ids = np.concatenate([b["group_id"][b["example_mask"]] for b in found])
  even = [p for p in range(CLIPS) if order(p, CLIPS) % 2 == 0]
  np.testing.assert_array_equal(ids, np.repeat(even, 3))
  times = np.concatenate([b["video_times"][b["example_mask"]] for b in found])
  np.testing.assert_allclose(times[:3, 0], [0, 1, 2], atol=0.01)  # 3 s, windows of 1 s
  assert "narration_ids" not in found[0]
  whole = next(iter(batches.evaluation(given)))
  np.testing.assert_allclose(whole["video_times"][0], [1, 1.25, 1.5, 1.75], atol=0.01)
  mixed = next(iter(batches.evaluation({**given, "shuffle_frames": True})))
  equal(
    {k: v for k, v in mixed.items() if k != "video_frames"},
    {k: v for k, v in whole.items() if k != "video_frames"},
  )
  assert (mixed["video_frames"] != whole["video_frames"]).any()
  a, b = (x["video_frames"].reshape(8, 4, -1).sum(-1) for x in (mixed, whole))
  np.testing.assert_array_equal(np.sort(a, 1), np.sort(b, 1))


def test_short_clips_end_in_frames_that_are_not_real(clips):
  given = {**clips, "rows": 2, "num_frames": 16, "text": "none", "fields": ("video",)}
  batch = next(batches.build(given))
  np.testing.assert_array_equal(batch["video_mask"].sum(1), [12, 12])
  assert batch["video_mask"][:, :12].all()
  assert not batch["video_frames"][:, 12:].any()


def test_sound_may_go_on_behind_the_frames(clips):
  given = {**clips, "rows": 4, "text": "none", "fields": ("video", "audio")}
  read = lambda **more: next(iter(batches.evaluation({**given, **more})))
  short, long = read(num_frames=2, audio_s=2.0), read(num_frames=8)  # 4 frames a second
  np.testing.assert_array_equal(short["audio_samples"], long["audio_samples"])
  assert short["audio_samples"].shape == (4, 160)
  np.testing.assert_array_equal(short["video_frames"], long["video_frames"][:, :2])


def test_captions_as_queries_and_in_training(clips):
  given = {**clips, "text": "caption", "fields": ()}
  vocab = shards.dictionary()
  exam = batches.evaluation({**given, "rows": 8}, vocab=vocab)
  found = list(exam)
  whole = {k: np.concatenate([b[k] for b in found]) for k in found[0]}
  mask = whole.pop("example_mask")
  assert mask.sum() == 2 * CLIPS == exam.num_examples
  np.testing.assert_array_equal(
    whole["relevance"][mask], np.repeat(np.arange(CLIPS), 2)
  )
  np.testing.assert_array_equal(whole["example_id"][mask], np.arange(2 * CLIPS))
  k = order(whole["relevance"][mask], CLIPS)
  for row, clip in enumerate(k):
    want = vocab.encode(shards.sentence(clip + row % 2, 3 + row % 2))
    assert whole["text_ids"][row][whole["text_mask"][row]].tolist() == want
  lengths = {
    tuple(b["text_mask"].sum(1))
    for b in shards.take(batches.build({**given, "rows": 4}, vocab=vocab), 6)
  }
  assert {n for row in lengths for n in row} == {3, 4}  # both captions are drawn


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_frame": 3}, "Did you mean 'num_frames'"),
    ({"task": "narrated_clip"}, "Did you mean 'narrated_clips'"),
    ({"size": 32}, "stores frames of 24x24"),
    ({"rows": 64}, "rows to at most 13"),
    ({"multiple": 3}, "nearest size is 3"),
    ({"split": "trian"}, "Did you mean 'train'"),
    ({"dir": "/none"}, "/none is missing"),
    ({"tokens": 100}, "either rows"),
    ({"windows": 2}, "for evaluation only"),
    ({"fields": ("vido",)}, "Did you mean 'video'"),
    ({"where": {"galery": 0}}, "Did you mean 'gallery'"),
    ({"where": {"gallery": 7}}, "passes the filters"),
    ({"text": "caption"}, "needs a vocabulary"),
    ({"fields": ("audio",), "audio_hz": 16_000}, "stores sound at 80 Hz"),
    ({"fields": ("audio",), "audio_s": 0.0}, "audio_s=0.0; it must be positive"),
  ],
)
def test_mistakes_are_one_line(clips, change, message):
  given = {**clips, "rows": 4, "text": "none", **change}
  with pytest.raises(errors.UserError, match=message) as caught:
    batches.build(given)
  assert "\n" not in str(caught.value)


def test_hosts_must_divide_the_rows(clips):
  with pytest.raises(errors.UserError, match="do not divide by the hosts"):
    batches.build({**clips, "rows": 4, "text": "none"}, num_hosts=3)


def test_crops_beyond_the_frame_show_it_mirrored(clips):
  """Blue is a ramp over the 24 columns: a crop of 16 shows from which it comes."""
  given = {**clips, "rows": 4, "text": "none", "num_frames": 2, "pad": 6}
  wide = np.pad(np.arange(24), 6, mode="symmetric")
  ramps = [wide[c : c + 16] * 255 // 24 for c in range(len(wide) - 15)]
  seen = set()
  for batch in shards.take(batches.build(given, seed=1), 8):
    for clip in batch["video_frames"]:
      found = clip[0, 8, :, 2].astype(int)
      off = [np.abs(found - ramp).max() for ramp in ramps]
      assert min(off) <= 12, "the row is no crop of the mirrored frame"
      seen.add(int(np.argmin(off)))
  assert min(seen) < 6 < 14 < max(seen)
  with pytest.raises(errors.UserError, match="pad=9 is over half"):
    batches.build({**given, "pad": 9})


def test_galleries_come_with_the_labels(clips):
  given = {**clips, "rows": 5, "text": "none", "fields": ("label",)}
  rows = list(batches.evaluation(given))
  real = np.concatenate([b["example_mask"] for b in rows])
  ids = np.concatenate([b["example_id"] for b in rows])[real]
  got = np.concatenate([b["label_gallery"] for b in rows])[real]
  np.testing.assert_array_equal(got, order(ids, 13) % 2)
