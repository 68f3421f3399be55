"""Clips of real videos: cut, labelled, streamed; a step of MIL-NCE on them."""

import json
import pathlib

import av
import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import index, records
from data_pipelines.media import image, video
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import clips, shards
from tests import helpers
from tests.reference.layout import put
from vlp_jax import errors

WORDS = [
  "again",
  "bird",
  "book",
  "brother",
  "eat",
  "help",
  "hungry",
  "learn",
  "milk",
  "night",
  "no",
  "please",
]
WORDS += ["school", "sister", "sorry", "student", "thanks", "walk", "want", "yes"]


def read(out, split):
  found = []
  for path in index.load(out, split).paths:
    with open(path, "rb") as f:
      found += [records.decode(data) for _, data in records.read(f)]
  return {c["key"][0].decode(): (c, x) for c, x in found}


def prepare(source, out, format, **keywords):
  return clips.prepare(source, out, format=format, quiet=True, **keywords)


def write_video(path, seconds, *, rate=10, sound=True, size=(32, 24)):
  """Frame k is grey 20 + 2 k; the sound is 100 times its second."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), "w") as out:
    v = out.add_stream("mpeg4", rate=rate)
    v.width, v.height = size
    v.pix_fmt, v.bit_rate = "yuv420p", 4_000_000
    a = out.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
    for k in range(round(seconds * rate)):
      pixels = np.full((size[1], size[0], 3), 20 + 2 * k, np.uint8)
      out.mux(v.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    out.mux(v.encode())
    if sound:
      pcm = 100 * (np.arange(round(8000 * seconds)) // 8000 + 1)
      x = av.AudioFrame.from_ndarray(
        pcm.astype(np.int16)[None], format="s16", layout="mono"
      )
      x.sample_rate, x.pts = 8000, 0
      out.mux(a.encode(x))
      out.mux(a.encode())


def grey(lists):
  return [image.decode(f[0]).mean() for f in lists["video/frames"]]


LISTED = """video,start,end,caption,label,split
a,0.5,2.5,first,run,train
a,1.0,1.5,second,jump,train
a,3.25,9,too long,run,train
a,8,9,behind the end,run,train
none,0,1,missing,run,train
a,1.02,1.05,a moment,run,val
"""


def test_one_decode_makes_all_clips_of_a_video(tmp_path, monkeypatch):
  put(tmp_path, {"list.csv": LISTED})
  write_video(tmp_path / "videos" / "deep" / "a.mkv", 4.0)
  calls = []
  real = video.frames
  monkeypatch.setattr(
    video, "frames", lambda *a, **k: calls.append(k["start_s"]) or real(*a, **k)
  )
  info = prepare(
    tmp_path / "list.csv",
    tmp_path / "out",
    "pairs",
    videos=str(tmp_path / "videos"),
    rate_hz=10.0,
    audio_hz=8000,
  )
  # The estimate decodes too, in a run of each split; so does the preparation.
  assert calls == [0.5, 1.0, 0.5, 1.0]
  assert info["missing_files"] == {"train": 1, "val": 0}
  assert info["splits"]["train"]["num_examples"] == 3
  assert info["splits"]["train"]["bad_records"] == 1
  assert info["classes"]["action"] == ["jump", "run"]
  found = read(tmp_path / "out", "train")
  first, second, cut = (found[k] for k in ("a_0.5_2.5", "a_1_1.5", "a_3.25_9"))
  np.testing.assert_allclose(grey(first[1]), 20 + 2 * np.arange(5, 25), atol=2)
  np.testing.assert_allclose(grey(second[1]), 20 + 2 * np.arange(10, 15), atol=2)
  times = np.concatenate(second[1]["video/times"])
  np.testing.assert_allclose(times, np.arange(5) / 10, atol=1e-6)
  assert second[0]["label/action"] == 0
  assert second[1]["caption/text"] == [[b"second"]]
  # The video ends at 4 s: so does the clip, whose first grid place is 3.3 s.
  np.testing.assert_allclose(grey(cut[1]), 20 + 2 * np.arange(33, 40), atol=2)
  assert cut[0]["duration_s"] == pytest.approx(0.75)
  assert cut[1]["video/times"][0] == pytest.approx(0.05, abs=1e-6)
  pcm = np.frombuffer(first[0]["audio/pcm"][0], "<i2")
  assert len(pcm) == 16_000
  assert set(pcm[100:3900]) == {100}
  assert set(pcm[4100:11_900]) == {200}
  (moment,) = read(tmp_path / "out", "val").values()
  np.testing.assert_allclose(grey(moment[1]), [40], atol=2)  # the frame before it
  assert moment[1]["video/times"] == [0.0]
  (bad,) = (tmp_path / "out" / shards.BAD).read_text().splitlines()
  assert "ends before the clip" in json.loads(bad)["reason"]


def test_far_clips_are_decoded_apart(tmp_path, monkeypatch):
  monkeypatch.setattr(clips, "GAP_S", 0.5)
  rows = [dict(key=str(s), start=s, end=s + 0.5) for s in (3.0, 0.0, 0.6, 1.8)]
  made = [c for r in rows for c in clips._cut(r, 4.0, 10.0, 32.0)]
  keys = [[c.key for c in run] for run in clips._runs(made)]
  assert keys == [["0.0", "0.6"], ["1.8"], ["3.0"]]


def test_whole_videos_are_cut_with_their_subtitles(tmp_path):
  srt = "1\n00:00:00,500 --> 00:00:01,500\nhello there\n\n"
  srt += "2\n00:00:03,000 --> 00:00:03,900\ngoodbye\n"
  put(tmp_path, {"a.srt": srt, "b.srt": "no times at all"})
  write_video(tmp_path / "a.mkv", 5.0, sound=False)
  write_video(tmp_path / "b.mkv", 1.0, sound=False)
  info = prepare(tmp_path, tmp_path / "out", "folder", clip_s=2.0, rate_hz=5.0)
  found = read(tmp_path / "out", "train")
  assert list(found) == ["a.mkv/0000", "a.mkv/0001", "a.mkv/0002"]
  narrations = [(x["narration/text"], x["narration/start"]) for _, x in found.values()]
  assert narrations[0] == ([[b"hello there"]], [0.5])
  assert narrations[1] == ([[b"goodbye"]], [1.0])
  assert narrations[2] == ([], [])
  assert [len(x["video/frames"]) for _, x in found.values()] == [10, 10, 5]
  assert all("audio/pcm" not in c for c, _ in found.values())
  assert info["splits"]["train"]["bad_records"] == 1  # b: its subtitles are none
  assert (tmp_path / "out" / "vocab.txt").read_text().split() == [
    "goodbye",
    "hello",
    "there",
  ]


@pytest.mark.parametrize(
  ("seconds", "clip_s", "want"),
  [
    (5.0, 2.0, [0, 2, 4, 5]),
    (4.9, 2.0, [0, 2, 4.9]),
    (2.9, 2.0, [0, 2.9]),
    (7.0, 0.0, [0, 7]),
  ],
)
def test_windows(seconds, clip_s, want):
  row = dict(key="k", start=0.0, end=None)
  made = list(clips._cut(row, seconds, 4.0, clip_s))
  assert [made[0].start, *(c.end for c in made)] == want
  places = [k for c in made for k in range(c.first, c.last + 1)]
  assert places == list(range(int(np.ceil(seconds * 4))))


def test_images_and_stored_frames(tmp_path):
  (tmp_path / "cat").mkdir()
  Image.new("RGB", (200, 100), (250, 0, 0)).save(tmp_path / "cat" / "red.png")
  prepare(tmp_path, tmp_path / "out", "folder", size=50)
  ((context, lists),) = read(tmp_path / "out", "train").values()
  assert (context["video/height"], context["video/width"]) == (50, 100)
  assert context["duration_s"] == 1 / 8
  pixels = image.decode(lists["video/frames"][0][0])
  assert pixels.shape == (50, 100, 3)
  assert pixels[..., 0].mean() > 240 > 20 > pixels[..., 1].mean()


def test_damage_costs_a_file_and_is_explained(tmp_path):
  write_video(tmp_path / "good.mkv", 4.0)
  data = (tmp_path / "good.mkv").read_bytes()
  put(tmp_path, {"cut.mkv": data[: len(data) // 2], "page.mp4": "<html>404</html>"})
  put(tmp_path, {"empty.webm": b""})
  info = prepare(tmp_path, tmp_path / "out", "folder")
  assert info["splits"]["train"] == {"num_examples": 1, "shards": 1, "bad_records": 3}
  noted = (tmp_path / "out" / shards.BAD).read_text().splitlines()
  reasons = {json.loads(x)["key"]: json.loads(x)["reason"] for x in noted}
  assert set(reasons) == {"cut.mkv", "page.mp4", "empty.webm"}
  assert all(reasons.values())


def test_a_rerun_keeps_what_is_there(tmp_path):
  put(tmp_path, {"list.csv": LISTED})
  write_video(tmp_path / "a.mkv", 4.0)

  def files():
    found = sorted((tmp_path / "out").iterdir())
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in found}

  prepare(tmp_path / "list.csv", tmp_path / "out", "pairs")
  before = {k: v for k, v in files().items() if "tfrecord" in k}
  prepare(tmp_path / "list.csv", tmp_path / "out", "pairs")
  assert {k: v for k, v in files().items() if "tfrecord" in k} == before
  with pytest.raises(errors.UserError, match=r"rate_hz 8.0 -> 4.0"):
    prepare(tmp_path / "list.csv", tmp_path / "out", "pairs", rate_hz=4.0)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--format", "foldr"], "Did you mean 'folder'"),
    ([], "give --format, one of actions"),
    (["--format", "youcook2"], "has none of"),
    (["--format", "folder"], "holds no rows"),
    (["--format", "pairs", "--options", "x=1"], "options: 'x=1'"),
    (["--format", "folder", "--rate_hz", "0"], "rate_hz=0"),
  ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
  given = ["clips", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
  assert command.main([*given, *arguments]) == 2
  err = capsys.readouterr().err
  assert message in err
  assert err.count("\n") == 1


def test_no_file_at_all_is_told(tmp_path):
  put(tmp_path, {"list.csv": LISTED})
  with pytest.raises(errors.UserError, match=r"none of 3 media files .* 'a'"):
    prepare(tmp_path / "list.csv", tmp_path / "out", "pairs")


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
  """The real gestures, as HowTo100M's files would list them."""
  videos = helpers.shared("data/video/asl_gestures")
  root = tmp_path_factory.mktemp("gestures")
  index_csv = "video_id,category_1,category_2,rank,task_id\n"
  index_csv += "".join(f"{w},Signs,ASL,1,{k}\n" for k, w in enumerate(WORDS))
  said = {w: f"start,end,text\n0.1,1.2,the sign for {w}\n" for w in WORDS}
  put(root, {"HowTo100M_v1.csv": index_csv})
  put(root / "howto100m_captions", {f"{w}.csv": t for w, t in said.items()})
  line = ["clips", "--source", str(root), "--videos", str(videos)]
  line += ["--out", str(root / "out"), "--format", "howto100m", "--processes", "1"]
  assert command.main([*line, "--dry_run"]) == 0
  assert not (root / "out").exists()
  assert command.main([*line, "--size", "36"]) == 0
  return root / "out"


def test_real_gestures_become_records(gestures):
  found = read(gestures, "train")
  assert sorted(found) == sorted(WORDS)
  info = json.loads((gestures / index.INFO).read_text())
  assert info["vocab"]["size"] == 1 + 20 + 3  # "the sign for", and the padding
  counts = {}
  for word, (context, lists) in found.items():
    assert lists["narration/text"] == [[f"the sign for {word}".encode()]]
    assert (context["video/height"], context["video/width"]) == (36, 48)
    assert context["tag/category_1"] == [b"Signs"]
    counts[word] = len(lists["video/frames"])
  # 1.6 to 3.7 s at 8 Hz
  assert (min(counts.values()), max(counts.values())) == (13, 30)
  source = pathlib.Path(helpers.shared("data/video/asl_gestures"))
  pixels = next(video.frames(source / "yes.mkv", times=[0.0], size=36))[1]
  stored = image.decode(found["yes"][1]["video/frames"][0][0])
  assert np.abs(stored.astype(int) - pixels).mean() < 3


@pytest.mark.slow
def test_mil_nce_takes_a_step_on_them(gestures):
  from launch import command as launch_command
  from vlp_jax import train

  config = launch_command.config_of("configs/mil_nce/howto100m.py:runlocal")
  changes = {"dir": str(gestures), "short": "loop", "candidates": 2, "rows": 4}
  changes |= {"num_frames": 4, "size": 16}
  launch_command.override(
    config,
    [f"--config.input.{k}={v}" for k, v in changes.items() if k != "short"]
    + [f"--config.vocab.file={gestures}/vocab.txt", "--config.total_steps=1"],
  )
  with config.unlocked():
    config.input.short = changes["short"]
  out = train.run(config, devices=jax.devices()[:1])
  assert np.isfinite(out.metrics[-1]["loss"])
  assert int(out.state.step) == 1


def stream(gestures, **more):
  from data_pipelines import batches

  given = {"task": "narrated_clips", "dir": str(gestures), "split": "train", "rows": 5}
  given |= {"text": "none", "fields": ("video", "label"), "size": 32, "num_frames": 32}
  return list(batches.evaluation({**given, "frame_rate": 8.0, **more}))


def test_a_short_clip_is_black_or_starts_anew(gestures):
  black, loop = stream(gestures), stream(gestures, short="loop")
  table = index.load(gestures, "train")
  for a, b in zip(black, loop, strict=True):
    assert b["video_mask"].all()
    for row, record in enumerate(a["example_id"]):
      n = int(table.columns["num_frames"][record])
      assert a["video_mask"][row].sum() == n
      assert not a["video_frames"][row, n:].any()
      # Frame n + k is frame k again.
      again = np.arange(32) % n
      np.testing.assert_array_equal(
        b["video_frames"][row], a["video_frames"][row][again]
      )
      np.testing.assert_allclose(b["video_times"][row], again / 8, atol=1e-6)


def test_short_clips_go_on_as_far_as_their_video_does():
  row = {"key": "a", "start": 1.0, "end": 2.0}
  cut = lambda duration, least: next(clips._cut(row, duration, 10.0, 0.0, least))
  assert cut(9.0, 0.0).end == 2.0
  assert cut(9.0, 3.3).end == pytest.approx(4.3)
  assert cut(9.0, 3.3).last == 42
  assert cut(3.0, 3.3).end == 3.0  # and there it ends
  assert cut(1.5, 3.3).end == 2.0  # damaged: found out when it is decoded
  assert next(clips._cut(row | {"end": 8.0}, 9.0, 10.0, 0.0, 3.3)).end == 8.0
