"""Steps, classes, moments, rated segments: literal files to figures worked by hand."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines import batches, feature_shards, index, records
from data_pipelines.media import image
from data_pipelines.prepare import _moments, clip_features, clips, youtube8m
from data_pipelines.readers import clip_row, coin
from data_pipelines.tasks import moment_rows
from data_pipelines.tasks import moments as task
from data_pipelines.vocabularies import words
from tests.reference import shards
from tests.reference.layout import put
from vlp_jax import batch as contract
from vlp_jax.errors import UserError
from vlp_jax.evaluators import localize, moments, segments

WORDS = ("pour", "stir", "serve", "cut", "paint", "red", "blue")


def apply(variables, batch, *, rng=None, train=False, method=None):
  """Clips are their features; a text is the sum of its words' vectors."""
  del rng, train
  if method == "encode_text":
    vectors = variables["words"][batch["text_ids"]]
    return {"text_embed": (vectors * batch["text_mask"][..., None]).sum(1)}, {}
  if method == "logits":
    return {"logits": batch["clips_features"]}, {}
  if method == "segment":
    where = batch["clips_mask"][..., None]
    return {"logits": (batch["clips_features"] * where).sum(1)}, {}
  return {"clips_embed": batch["clips_features"]}, {}


def table(width, **vectors):
  """[V, width] with a one at the place of each word."""
  out, vocab = np.zeros((len(WORDS) + 1, width), np.float32), words.Vocabulary(WORDS)
  for word, at in vectors.items():
    out[vocab.encode(word)[0], at] = 1
  return {"words": out}


def prepared(at, format, files, features, rate=1.0, **more):
  """Shards of literal files, with an .npy of each video."""
  put(at / "raw", files)
  (at / "features").mkdir()
  for video, x in features.items():
    np.save(at / "features" / f"{video}.npy", np.asarray(x, np.float32))
  (at / "vocab.txt").write_text("\n".join(WORDS))
  given = dict(format=format, features=str(at / "features"), rates=str(rate))
  given |= dict(vocab_file=str(at / "vocab.txt"), quiet=True) | more
  return clip_features.prepare(at / "raw", at / "out", **given)


def read(at, split, *, train=False, **more):
  given = dict(task="moments", dir=str(at), split=split, rows=2, max_words=3) | more
  vocab = words.Vocabulary(WORDS)
  if train:
    return next(batches.build(given, vocab=vocab))
  found = list(batches.evaluation(given, vocab=vocab))
  for batch in found:
    contract.check(batch)
  return found


def prepared_steps(**given):
  """The preprocessors by themselves: three steps at most, one network of width 1."""
  base = dict(info={"max_steps": 3}, widths=[1], period_s=1.0, lead_s=1.0)
  base |= dict(max_clips=8, max_words=1, vocab=None, train=False)
  return task._Steps(**base | given)


CROSSTASK = {
  "tasks_primary.txt": "1\nMake Tea\nurl\n3\npour,stir,serve\n\n"
  "2\nBuild a Shelf\nurl\n2\ncut,paint\n\n",
  "videos.csv": "1,vidA,url\n2,vidB,url\n2,vidC,url\n",
  "videos_val.csv": "1,vidA,url\n2,vidB,url\n",
  "annotations/1_vidA.csv": "1,1.0,2.5\n3,4.2,5.0\n",
  "annotations/2_vidB.csv": "1,0,1\n2,1,2\n",
  "crosstask_constraints/2_vidC.csv": "1,0,1.5\n2,2,3\n",
}


@pytest.fixture(scope="module")
def crosstask(tmp_path_factory):
  """Seconds of A look like pour at 2, stir at 3, serve at 5; B is as it looks."""
  at = tmp_path_factory.mktemp("crosstask")
  a, b = np.zeros((6, 3)), np.zeros((3, 3))
  a[[2, 3, 5], [0, 1, 2]] = b[[0, 1], [0, 1]] = 9
  prepared(at, "crosstask", CROSSTASK, {"vidA": a, "vidB": b, "vidC": b})
  return at / "out"


def test_step_recall_of_crosstask_by_hand(crosstask):
  videos = read(crosstask, "test", labels="steps", max_clips=8)
  (both,) = videos
  assert both["label_task"].tolist() == [1, 0]  # names in order of the alphabet
  assert both["clips_mask"].sum(1).tolist() == [6, 3]
  assert np.argwhere(both["label_steps"][0]).tolist() == [[1, 0], [2, 0], [4, 2]]
  assert np.argwhere(both["label_steps"][1]).tolist() == [[0, 0], [1, 1]]
  steps = read(crosstask, "test", unit="step")
  names = {
    (int(t), int(k))
    for b in steps
    for t, k, real in zip(
      b["label_task"], b["label_step"], b["example_mask"], strict=True
    )
    if real
  }
  assert names == {(1, 0), (1, 1), (1, 2), (0, 0), (0, 1)}
  variables = table(3, pour=0, stir=1, serve=2, cut=0, paint=1)
  found = dict(localize.Evaluator(apply, videos, steps).run(variables))
  # Of A pour is found, serve is a second late; of B both are found.
  assert found["step_recall"].value == pytest.approx((1 / 2 + 1) / 2)
  assert found["step_recall"].n == 2


def test_constraints_of_crosstask_are_what_is_ruled_out(crosstask):
  given = dict(labels="steps", max_clips=4, rows=1, train=True)
  batch = read(crosstask, "train", **given)
  contract.check(batch)
  assert batch["label_steps"].tolist() == [[1, 1, 0]]
  want = [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
  assert batch["label_constraint"][0].tolist() == want


def test_names_of_steps_are_their_words(crosstask):
  given = dict(labels="steps", names=True, max_clips=4)
  batch = read(crosstask, "train", train=True, **(given | dict(rows=1)))
  contract.check(batch)
  assert batch["choice_ids"].shape == (1, 3, 3)
  words_of = words.Vocabulary(WORDS)
  first = [words_of.encode(name)[0] for name in ("cut", "paint")]
  assert batch["choice_ids"][0, :, 0].tolist() == [*first, 0]
  assert batch["choice_mask"].sum(axis=2).tolist() == [[1, 1, 0]]
  (both,) = read(crosstask, "test", **(given | dict(max_clips=8)))
  assert both["choice_mask"].any(axis=2).tolist() == [[True] * 3, [True, True, False]]
  assert both["label_steps"].shape == (2, 8, 3)
  steps = prepared_steps(vocab=words.Vocabulary(WORDS[:2]), max_words=2)
  known = {"key": "a", "task/steps": np.array(["stir", "pour stir or cut"])}
  assert steps.names(known)["choice_ids"].numpy().tolist() == [[2, 0], [1, 2], [0, 0]]
  with pytest.raises(tf.errors.InvalidArgumentError, match="without a word of the"):
    steps.names(known | {"task/steps": np.array(["pour", "cut"])})


def test_what_is_longer_than_max_clips_is_an_error_where_it_is_judged(crosstask):
  given = dict(labels="steps", max_clips=4)
  told = r"1 videos of .* are longer than max_clips=4 of 1 s, the longest 6; set .*=6"
  with pytest.raises(UserError, match=told):
    read(crosstask, "test", **given)
  (both,) = read(crosstask, "test", max_clips=4)  # nothing is judged
  assert both["clips_mask"].sum(axis=1).tolist() == [4, 3]
  read(crosstask, "test", train=True, **given)
  (one,) = read(crosstask, "test", where={"task": 0}, **(given | dict(max_clips=3)))
  assert one["label_steps"][0].sum() == 2


def test_videos_are_drawn_of_each_task():
  table = types.SimpleNamespace(columns={"task": np.array([0, 1, 0, 1, 0, 2, 0])})
  keep = np.array([0, 1, 2, 3, 4, 5])  # record 6 was filtered out
  seen = set()
  for draw in range(20):
    some = moment_rows.drawn(table, keep, 2, draw, False)
    others = moment_rows.drawn(table, keep, 2, draw, True)
    assert sorted([*some, *others]) == keep.tolist()
    assert np.bincount(table.columns["task"][some]).tolist() == [2, 2, 1]
    again = moment_rows.drawn(table, keep, 2, draw, False)
    np.testing.assert_array_equal(some, again)
    seen.add(tuple(some))
  assert len(seen) == 3
  np.testing.assert_array_equal(moment_rows.drawn(table, keep, 0, 5, False), keep)


COIN = {
  "database": {
    "vid1": {
      "class": "MakeTea",
      "subset": "testing",
      "duration": 4.0,
      "annotation": [
        {"id": "12", "label": "stir", "segment": [0.6, 2.5]},
        {"id": "7", "label": "pour", "segment": [2.4, 4.0]},
      ],
    },
    "bad": {
      "class": "MakeTea",
      "subset": "testing",
      "annotation": [{"id": "7", "label": "pour"}],
    },
  }
}


def test_frame_accuracy_of_coin_by_hand(tmp_path):
  put(tmp_path / "odd", {"COIN.json": {"database": {"a": {"annotation": 3}}}})
  with pytest.raises(UserError, match="no COIN json"):
    coin.read(tmp_path / "odd")
  logits = np.eye(3)[[0, 2, 2, 1]]  # background, stir, stir, pour
  files = {"COIN.json": COIN}
  info = prepared(tmp_path, "coin", files, {"vid1": logits, "bad": logits})
  assert info["num_classes"] == 3
  assert info["splits"]["test"] == {"num_examples": 1, "shards": 1, "bad_records": 1}
  assert info["classes"]["moment"] == ["pour", "stir"]
  (batch,) = read(tmp_path / "out", "test", labels="classes", max_clips=6)
  # Middles 0.5, 1.5, 2.5, 3.5 s.
  assert batch["label"][0].tolist() == [0, 2, 1, 1, -1, -1]
  found = dict(segments.Evaluator(apply, [batch], method="logits").run({}))
  assert found["frame_accuracy"].value == pytest.approx(3 / 4)
  assert found["step_accuracy"].value == pytest.approx(2 / 3)


def test_moments_of_tvr_by_hand(tmp_path):
  row = dict(duration=6.0, type="v")
  lines = [
    row | dict(vid_name="v1", ts=[1.5, 4.5], desc="red", desc_id=1),
    row | dict(vid_name="v2", ts=[0.0, 3.0], desc="blue", desc_id=2),
  ]
  files = {"tvr_val_release.jsonl": "\n".join(map(json.dumps, lines))}
  x = np.zeros((2, 4, 2))
  x[0, 1:3, 0] = x[1, 1:3, 1] = 1
  known = {"v1": x[0], "v2": x[1]}
  prepared(tmp_path, "tvr", files, known, rate=2 / 3, options="unit=video")
  given = dict(period_s=1.5, max_clips=5)
  (texts,) = read(tmp_path / "out", "val", unit="moment", **given)
  (videos,) = read(tmp_path / "out", "val", **given)
  assert videos["clips_mask"].sum(1).tolist() == [4, 4]
  np.testing.assert_array_equal(videos["clips_features"][:, :4], x)
  assert videos["clips_times"][0, 2].tolist() == [3.0, 4.5]
  assert texts["relevance"].tolist() == [0, 1]
  assert texts["label_times"].tolist() == [[[1.5, 4.5]], [[0, 3]]]
  assert texts["label_segments"].tolist() == [[[1, 2]], [[0, 1]]]
  assert texts["span"].tolist() == [[1, 2], [0, 1]]
  assert "clips_features" not in texts
  own = dict(shortest=2, ks=(1,), thresholds=(0.5, 0.7))
  run = moments.Evaluator(apply, [texts], [videos], **own)
  found = {k: r.value for k, r in run.run(table(2, red=0, blue=1)).__iter__()}
  # Both queries find clips 1 and 2 of their video: 1.5 to 4.5 s, a third of blue's.
  assert found == {
    "vr_recall@1": 1.0,
    **{f"{k}_iou{t}_recall@1": 0.5 for k in ("svmr", "vcmr") for t in (0.5, 0.7)},
  }


def test_agreement_of_didemo_by_hand(tmp_path):
  row = {"description": "red", "video": "v.mp4", "num_segments": 6}
  lines = [
    row | {"annotation_id": 1, "times": [[1, 1], [1, 1], [0, 1], [2, 3]]},
    row | {"annotation_id": 2, "description": "blue", "times": [[5, 5]]},
  ]
  x = np.repeat([0.1, 3, 0, -1, -2, -3], 5)[:, None]
  more = dict(options="unit=video")
  prepared(tmp_path, "didemo", {"val_data.json": lines}, {"v": x}, **more)
  given = dict(period_s=5.0, max_clips=6)
  (texts,) = read(tmp_path / "out", "val", unit="moment", **given)
  (videos,) = read(tmp_path / "out", "val", **given)
  assert videos["clips_mask"][0].tolist() == [True] * 6
  assert texts["label_segments"][0].tolist() == [[1, 1], [1, 1], [0, 1], [2, 3]]
  assert texts["label_segments"][1].tolist() == [[5, 5], *[[-1, -1]] * 3]
  assert texts["label_times"][0, 3].tolist() == [10, 20]
  one = {k: v[:1] for k, v in texts.items()}
  run = moments.DiDeMo(apply, [one], [videos]).run(table(1, red=0))
  found = {k: r.value for k, r in run}
  # First comes segment 1, then 0 to 1: ranks 1, 1, 2; overlaps 1, 1, 1/2.
  assert found["rank@1"] == 0
  assert found["rank@5"] == 1
  assert found["miou"] == pytest.approx(2.5 / 3)
  batch = read(tmp_path / "out", "val", unit="moment", train=True, **given)
  contract.check(batch)
  assert batch["clips_features"].shape == (2, 6, 1)
  assert sorted(batch["span"].tolist()) == [[1, 2], [5, 5]]


HERO = {(3.2, 7.6): (2, 5), (0, 2.29): (0, 1), (16.48, 33.87): (10, 22)}
HERO |= {(149, 151): (99, 99)}


@pytest.mark.parametrize(("times", "want"), HERO.items())
def test_spans_are_those_of_hero(times, want):
  start, end = map(np.float32, times)
  assert tuple(task.hero_span(start, end, 100, 1.5).numpy()) == want


def video(name, rgb, ratings):
  """A SequenceExample as published; ratings (start, label, score)."""
  start = [r[0] for r in ratings]
  context = {
    "id": name,
    "segment_start_times": start,
    "segment_end_times": [s + 2 for s in start],
    "segment_labels": [r[1] for r in ratings],
    "segment_scores": [float(r[2]) for r in ratings],
  }
  lists = {"rgb": [bytes(r) for r in rgb], "audio": [b"\x00"] * len(rgb)}
  return records.frame(records.encode(context, lists))


def test_average_precision_of_youtube8m_by_hand(tmp_path):
  rgb = [[255, 0], [255, 0], [0, 255], [0, 255], [128, 128], [128, 128]]
  rated = [(0, 40, 1), (2, 40, 0), (2, 9, 1), (4, 40, 1)]
  raw = tmp_path / "raw"
  raw.mkdir()
  whole = video("a", rgb, rated) + video("bad", [[1, 2, 3]], [])
  (raw / "validate0000.tfrecord").write_bytes(whole)
  info = youtube8m.prepare(raw, tmp_path / "out", widths="2,1", quiet=True)
  assert info["classes"]["moment"] == ["9", "40"]
  assert info["splits"]["val"] == {"num_examples": 1, "shards": 1, "bad_records": 1}
  given = dict(unit="segment", max_clips=2, rows=4)
  (batch,) = read(tmp_path / "out", "val", **given)
  real = batch["example_mask"]
  assert batch["label"][real].tolist() == [[-1, 1], [1, 0], [-1, 1]]
  x = batch["clips_features"][real][:, 0, :2]
  high, low = 2 + 4 / 512, -2 + 4 / 512
  middle = 128 * 4 / 255 + low
  want = [[high, low], [low, high], [middle, middle]]
  np.testing.assert_allclose(x, want, atol=2e-3)
  seen = batch | {"clips_features": batch["clips_features"][..., :2]}
  run = segments.MeanAveragePrecision(apply, [seen], method="segment", first=3)
  # Class 9: alone and right. Class 40: the wrong one is first, 1/2 and 2/3.
  found = dict(run.run({}))["map"]
  assert found.value == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)


def windows(batches):
  """A "model" for extraction: of each window the green of its first frame."""
  real = [{k: v[b["example_mask"]] for k, v in b.items()} for b in batches]
  green = lambda x: x[:, 0, 4, 4, 1:2].astype(np.float32)
  found = [(green(b["video_frames"]), b["example_id"]) for b in real]
  return tuple(np.concatenate(x) for x in zip(*found, strict=True))


def test_moments_of_videos_go_over_to_their_features(tmp_path):
  """Videos with steps, as `prepare clips` keeps them, through extraction to labels."""
  rows = [
    clip_row.ClipRow(
      "a",
      "a",
      labels={"task": "tea", "steps": ["pour", "stir"]},
      moments=(clip_row.Moment("stir", ((1.5, 2.0),), 1),),
    )
  ]
  about = _moments.about(rows)
  ((file,),) = [clips.by_file(rows, about)]
  (row,) = file["clips"]
  frames = {
    k: (image.encode_jpeg(shards.frame(0, k, 24), quality=95), (24, 24, 3))
    for k in range(12)
  }
  clip = clips._Clip(row, "a", 0.0, 3.0, 0, 11)
  data, columns = clips._record(clip, frames, None, {}, 4.0, 0)
  out = tmp_path / "clips"
  with index.ShardWriter(out, "test", 1, columns=tuple(columns)) as writer:
    writer.write(0, data, **columns)
  info = {"name": "tiny", "kind": "narrated_clips", "splits": ["test"], **about}
  index.write_info(out, info)
  given = dict(task="clip_windows", dir=str(out), split="test", rows=2, size=16)
  whole = batches.evaluation(given | dict(num_frames=4, stride=4))
  split = feature_shards.Split(whole, windows, window_s=1.0, stride_s=1.0)
  kept = {k: info[k] for k in ("name", "tasks", "max_steps", "annotators")}
  at = tmp_path / "features"
  feature_shards.write(at, {"test": split}, info=kept, settings={}, quiet=True)
  more = dict(labels="steps", max_clips=4, rows=1)
  (batch,) = read(at, "test", **more)
  assert batch["label_steps"][0].tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]
  assert np.round(batch["clips_features"][0, :, 0] / 10).tolist() == [0, 4, 8, 0]
  (led,) = read(at, "test", lead_s=1.0, **more)
  assert np.round(led["clips_features"][0, :, 0] / 10).tolist() == [0, 0, 4, 0]


def test_the_last_seconds_have_the_last_window(tmp_path):
  """Six seconds, of which a second network with 1.5 rows a second lacks the end."""
  files = CROSSTASK | {"videos.csv": "1,vidA,url\n", "videos_val.csv": "1,vidA,url\n"}
  put(tmp_path / "raw", files)
  for name, x in (("a", np.arange(1, 7)), ("b", np.arange(1, 6) * 10)):
    (tmp_path / name).mkdir()
    np.save(tmp_path / name / "vidA.npy", x[:, None].astype(np.float32))
  (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
  both = ",".join(str(tmp_path / name) for name in "ab")
  given = dict(format="crosstask", features=both, rates="1.0,1.5", quiet=True)
  given["vocab_file"] = str(tmp_path / "vocab.txt")
  clip_features.prepare(tmp_path / "raw", tmp_path / "out", **given)
  given = dict(labels="steps", max_clips=8, rows=1)
  (batch,) = read(tmp_path / "out", "test", **given)
  assert batch["clips_mask"][0].tolist() == [True] * 6 + [False] * 2
  assert batch["clips_features"][0, :, 0].tolist() == [1, 2, 3, 4, 5, 6, 0, 0]
  # Rows of 2/3 s, five of them: seconds 4 and 5 have the one that begins at 2.67 s.
  assert batch["clips_features"][0, :, 1].tolist() == [10, 30, 40, 50, 50, 50, 0, 0]
  (led,) = read(tmp_path / "out", "test", lead_s=2.0, **given)
  assert led["clips_features"][0, :, 0].tolist() == [1, 1, 1, 2, 3, 4, 0, 0]


def test_windows_longer_than_their_stride_cover_the_whole_video():
  """3.2 s each second of 6 s: rows 0 to 2 alone, asked for by all six seconds."""
  x = np.array([[1.0], [2.0], [3.0]], "<f2")
  x = {"features/0/data": x.tobytes(), "features/0/num": np.int64(3), "key": "a"}
  x |= {"features/0/width": np.int64(1), "features/0/rate_hz": np.float32(1)}
  steps = prepared_steps()
  made = steps.clips(x | {"duration_s": np.float32(6)})
  got = made["clips_features"].numpy()[:, 0].tolist()
  assert got == [1, 1, 2, 3, 3, 3, 0, 0]
  assert made["clips_mask"].numpy().sum() == 6
  none = {"features/0/data": b"", "features/0/num": np.int64(0)}
  made = steps.clips(x | none | {"duration_s": np.float32(6)})
  assert not made["clips_features"].numpy().any()


def test_mistakes_are_told(crosstask):
  for more, message in (
    (dict(unit="step", labels="steps"), "goes with unit='video'"),
    (dict(labels="classes"), "has num_classes 0"),
    (dict(unit="word"), "Known: video, moment, step, segment"),
    (dict(period_s=0.0), "must be positive"),
    (dict(names=True), "goes with labels='steps'"),
    (dict(rest=True), "rest=True with per_task"),
  ):
    with pytest.raises(UserError, match=message):
      read(crosstask, "test", **more)
