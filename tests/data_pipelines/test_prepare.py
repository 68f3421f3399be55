"""Preparation: right records, the same bytes however it is run, kills lose nothing."""

import errno
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from data_pipelines import index, records, vocabularies
from data_pipelines.media import image
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import narrated, shards
from tests import helpers
from vlp_jax import errors


def _video(path, level, *, seconds=1.0, sound=True):
  with av.open(str(path), "w") as out:
    v = out.add_stream("mpeg4", rate=10)
    v.width, v.height, v.pix_fmt, v.bit_rate = 48, 32, "yuv420p", 4_000_000
    a = out.add_stream("aac", rate=16_000, layout="mono") if sound else None
    for k in range(round(10 * seconds)):
      pixels = np.full((32, 48, 3), level + 10 * k, np.uint8)
      out.mux(v.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    out.mux(v.encode())
    if sound:
      wave = 9000 * np.sin(np.arange(round(16_000 * seconds)) / 5)
      x = av.AudioFrame.from_ndarray(
        wave.astype(np.int16)[None], format="s16", layout="mono"
      )
      x.sample_rate, x.pts = 16_000, 0
      out.mux(a.encode(x))
      out.mux(a.encode())


def _row(k, **more):
  return {
    "clip_id": f"clip_{k:03d}",
    "video": f"videos/{k % 3}.mp4",
    "duration_s": 1.0,
    "shape": "ring",
    "colour": ["red", "blue"][k % 2],
    "action": "fall",
    "captions": [f"a ring number {k}", "the ring falls"],
    "narrations": [{"start": -0.5, "end": 0.5, "text": "look at the ring"}],
    "objects": [{"boxes": [[0, 0, 1, 1]]}],
    **more,
  }


def _lines(path, rows):
  data = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
  path.write_bytes(b"".join(d + b"\n" for d in data))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  root = tmp_path_factory.mktemp("source")
  (root / "videos").mkdir()
  for k in range(3):
    _video(root / "videos" / f"{k}.mp4", 20 + 5 * k, sound=k != 2)
  corpus = {"shapes": ["ring", "heart"], "colours": ["red", "blue"], "licence": "mine"}
  (root / "corpus.json").write_text(json.dumps(corpus))
  extra = {
    "gallery": 3,
    "steps": [{"start": 0, "end": 1, "shape": "ring", "colour": "red", "action": None}],
    "qa": [{"question": "what falls?", "answer": "ring"}],
    "choices": [{"question": "which?", "choices": ["a", "b"], "answer": 1}],
    "tags": {"verb": "fall", "noun": "ring"},
  }
  _lines(root / "train.jsonl", [_row(k) for k in range(5)])
  _lines(root / "test.jsonl", [_row(k, **extra) for k in range(5, 8)])
  return root


def _prepare(source, out, **keywords):
  return narrated.prepare(source, out, quiet=True, **keywords)


def _read(out, split):
  table = index.load(out, split)
  found = []
  for path in table.paths:
    with open(path, "rb") as f:
      found += [records.decode(data) for _, data in records.read(f)]
  return table, found


def _digests(out):
  files = sorted(pathlib.Path(out).rglob("*"))
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_records_hold_the_clips(source, tmp_path):
  info = _prepare(source, tmp_path / "out", rate_hz=5, size=24)
  assert info["splits"]["train"] == {"num_examples": 5, "shards": 1, "bad_records": 0}
  assert info["classes"]["action"] == ["fall"]
  assert info["licence"] == "mine"
  assert info["settings"]["jpeg_quality"] == 95
  assert index.read_info(tmp_path / "out") == info
  table, found = _read(tmp_path / "out", "train")
  assert table.columns["colour"].tolist() == [0, 1, 0, 1, 0]
  assert table.columns["num_captions"].tolist() == [2] * 5
  assert table.columns["num_frames"].tolist() == [5] * 5
  for k, (context, lists) in enumerate(found):
    assert context["key"] == [f"clip_{k:03d}".encode()]
    assert (context["video/height"], context["video/width"]) == (24, 36)
    assert context["label/shape"] == 0
    frames = [image.decode(f[0]) for f in lists["video/frames"]]
    assert {f.shape for f in frames} == {(24, 36, 3)}
    level = [20 + 5 * (k % 3) + 10 * j for j in (0, 2, 4, 6, 8)]
    np.testing.assert_allclose([f.mean() for f in frames], level, atol=3)
    times = np.concatenate(lists["video/times"])
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6, 0.8], atol=1e-6)
    assert [t[0] for t in lists["caption/text"]][1] == b"the ring falls"
    assert lists["narration/start"][0] == -0.5
    assert ("audio/pcm" in context) == (k % 3 != 2)  # no zeros for missing sound
    if "audio/pcm" in context:
      pcm = np.frombuffer(context["audio/pcm"][0], "<i2")
      assert len(pcm) == 16_000
      assert np.abs(pcm[4000:12_000].astype(int)).max() > 7000
  context, lists = _read(tmp_path / "out", "test")[1][0]
  assert context["tag/verb"] == [b"fall"]
  assert lists["qa/answer"] == [[b"ring"]]
  assert lists["choice/options"] == [[b"a", b"b"]]
  assert lists["choice/answer"][0] == 1
  assert lists["step/action"][0] == -1
  assert _read(tmp_path / "out", "test")[0].columns["gallery"].tolist() == [3] * 3
  config = {"name": "words", "file": str(tmp_path / "out" / "vocab.txt")}
  assert len(vocabularies.build(config).encode("the ring falls")) == 3


def test_tensorflow_reads_the_records(source, tmp_path):
  tf = pytest.importorskip("tensorflow")
  _prepare(source, tmp_path, limit=1)
  paths = [str(p) for p in sorted(tmp_path.glob("train-*.tfrecord"))]
  (record,) = tf.data.TFRecordDataset(paths)
  context, lists = tf.io.parse_single_sequence_example(
    record,
    {"key": tf.io.FixedLenFeature([], tf.string)},
    {
      "video/frames": tf.io.FixedLenSequenceFeature([], tf.string),
      "narration/start": tf.io.FixedLenSequenceFeature([], tf.float32),
    },
  )
  assert context["key"].numpy() == b"clip_000"
  assert tf.io.decode_jpeg(lists["video/frames"][7]).shape == (32, 48, 3)
  assert lists["narration/start"].numpy().tolist() == [-0.5]


def test_bytes_do_not_depend_on_processes_or_reruns(source, tmp_path):
  one = functools.partial(shards.write, per_shard=2)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shards, "write", one)
    _prepare(source, tmp_path / "a")
    _prepare(source, tmp_path / "b", processes=2)
    want = _digests(tmp_path / "a")
    assert len([k for k in want if k.endswith(".tfrecord")]) == 5
    assert _digests(tmp_path / "b") == want
    # A rerun makes what is missing and touches nothing else.
    kept = tmp_path / "b" / "train-00000-of-00003.tfrecord"
    before = kept.stat().st_mtime_ns
    (tmp_path / "b" / "train-00001-of-00003.index.npz").unlink()
    (tmp_path / "b" / "test-00000-of-00002.tfrecord.tmp-999999999").write_bytes(b"x")
    _prepare(source, tmp_path / "b")
  assert _digests(tmp_path / "b") == want
  assert kept.stat().st_mtime_ns == before


def test_other_settings_are_refused(source, tmp_path):
  _prepare(source, tmp_path / "out", limit=1)
  with pytest.raises(errors.UserError, match=r"rate_hz 8\.0 -> 4\.0"):
    _prepare(source, tmp_path / "out", limit=1, rate_hz=4.0)
  with pytest.raises(errors.UserError, match="limit 1 -> 2"):
    _prepare(source, tmp_path / "out", limit=2)


BAD = [
  b"{not json",
  b'{"clip_id": "utf8", "captions": ["\xff\xfe"]}',
  b'["no object"]',
  b'{"video": "videos/0.mp4"}',
  _row(0),  # repeated below
  _row(0),
  _row(10, video="videos/none.mp4"),
  _row(11, video="../secret.mp4"),
  _row(12, video="/etc/passwd"),
  _row(13, video="page.mp4"),
  _row(14, shape="cube"),
  _row(15, duration_s="long"),
  _row(16, duration_s=-1),
  _row(17, qa=[{"question": "?"}]),
  _row(18, gallery="x"),
  _row(19, video=None),
  _row(20, tags="none"),
]


def test_damaged_clips_go_to_quarantine(source, tmp_path):
  shutil.copytree(source, tmp_path / "source")
  (tmp_path / "source" / "page.mp4").write_text("<html>404</html>")
  shutil.copy(source / "videos" / "0.mp4", tmp_path / "secret.mp4")
  _lines(tmp_path / "source" / "train.jsonl", BAD)
  info = _prepare(tmp_path / "source", tmp_path / "out")
  assert info["splits"]["train"]["num_examples"] == 1
  assert info["splits"]["train"]["bad_records"] == len(BAD) - 1
  text = (tmp_path / "out" / shards.BAD).read_text()
  noted = [json.loads(line) for line in text.splitlines()]
  keys = {n["key"] for n in noted}
  assert {"train.jsonl:1", "train.jsonl:2", "clip_010", "clip_020"} <= keys
  assert all(n["reason"] and n["split"] == "train" for n in noted)
  reasons = {n["key"]: n["reason"] for n in noted}
  assert "below the source" in reasons["clip_011"]
  assert "below the source" in reasons["clip_012"]
  assert "'cube' is none of ring, heart" in reasons["clip_014"]
  _prepare(tmp_path / "source", tmp_path / "out")
  assert (tmp_path / "out" / shards.BAD).read_text() == text


def test_captions_by_rule(source, tmp_path):
  shutil.copytree(source, tmp_path / "source")
  texts = ["", "  ", None, 7, "x" * 100_000, "half \ud83d", "good [MASK]\x00"]
  spoken = [
    {"start": 0, "end": 1, "text": "good"},
    {"start": 1, "end": 0, "text": "backwards"},
    {"start": None, "end": 1, "text": "untimed"},
    {"start": 0, "end": 1, "text": ""},
    "no narration",
  ]
  rows = [_row(0, captions=texts, narrations=spoken), _row(1, captions=[])]
  rows += [{"clip_id": "bare", "video": "videos/0.mp4"}]
  _lines(tmp_path / "source" / "train.jsonl", rows)
  _prepare(tmp_path / "source", tmp_path / "out")
  table, found = _read(tmp_path / "out", "train")
  kept = [t[0] for t in found[0][1]["caption/text"]]
  assert kept == [b"x" * 10_000, b"good [MASK]\x00"]
  assert found[0][1]["narration/text"] == [[b"good"]]
  assert table.columns["num_captions"].tolist() == [2, 0, 0]
  assert table.columns["texts_lost"].tolist() == [6 + 4, 0, 0]
  assert found[2][0]["label/shape"] == -1
  assert found[2][0]["duration_s"] == 1.0


def _encode(row):
  if row["bad"]:
    raise ValueError("damaged on purpose")
  return records.encode({"key": row["key"]}), {"n": 1}


def _rows(good, bad):
  kinds = [False] * good + [True] * bad
  return [{"key": f"{k:05d}", "bad": b} for k, b in enumerate(kinds)]


def _write(out, rows, **keywords):
  return shards.write(
    out,
    {"train": rows},
    _encode,
    columns=("n",),
    settings={},
    info={"name": "x", "kind": "x"},
    quiet=True,
    **keywords,
  )


def test_the_budget_ends_the_run(tmp_path):
  info = _write(tmp_path / "a", _rows(300, 100))
  assert info["splits"]["train"]["bad_records"] == 100
  for _ in range(2):  # also when the damage was met in an earlier run
    with pytest.raises(errors.DataBudgetError, match=r"101 of 501 .* on purpose"):
      _write(tmp_path / "b", _rows(400, 101), per_shard=200)
  with pytest.raises(errors.DataBudgetError, match="all train examples"):
    _write(tmp_path / "c", _rows(0, 3))
  assert shards.budget(10) == 100
  assert shards.budget(1_000_000) == 1000


def test_full_disk_and_nothing_to_do(tmp_path, monkeypatch):
  with pytest.raises(errors.UserError, match="no examples"):
    _write(tmp_path / "a", [])
  monkeypatch.setattr(shards, "_free", lambda out: 10)
  with pytest.raises(errors.UserError, match="are free"):
    _write(tmp_path / "a", _rows(100, 0))
  assert not (tmp_path / "a").exists()
  monkeypatch.undo()

  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(index.ShardWriter, "write", full)
  with pytest.raises(errors.UserError, match="No space left"):
    _write(tmp_path / "b", _rows(3, 0))
  assert not list((tmp_path / "b").glob("*tfrecord*"))


def test_dry_run_writes_nothing(source, tmp_path):
  guess = _prepare(source, tmp_path / "out", dry_run=True)
  assert guess["num_examples"] == 8
  assert not (tmp_path / "out").exists()
  _prepare(source, tmp_path / "out")
  size = sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tfrecord"))
  assert guess["num_bytes"] == pytest.approx(size, rel=0.5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["narated"], "Did you mean 'narrated'"),
    (["narrated", "--out", "x"], "--source"),
    (["narrated", "--source", "/none", "--out", "x"], "has no <split>.jsonl"),
    (["narrated", "--source", "/none", "--out", "x", "--rate_hz", "a"], "rate_hz"),
    (["narrated", "--source", "/none", "--out", "x", "--size", "0"], "size=0"),
    (["narrated", "--source", "/none", "--out", "x", "--rate", "1"], "--rate"),
  ],
)
def test_mistakes_are_one_line_and_exit_2(capsys, arguments, message):
  assert command.main(arguments) == 2
  out, err = capsys.readouterr()
  assert message in err
  assert err.count("\n") == 1
  assert not out


def test_a_vocabulary_may_be_given(source, tmp_path):
  (tmp_path / "v.txt").write_text("ring\nfalls\n")
  given = {"vocab": "words", "vocab_file": str(tmp_path / "v.txt")}
  info = _prepare(source, tmp_path / "out", limit=1, **given)
  assert info["vocab"]["size"] == 3
  assert (tmp_path / "out" / "vocab.txt").read_text() == "ring\nfalls\n"
  shutil.copytree(source, tmp_path / "source")
  (tmp_path / "source" / "train.jsonl").unlink()
  with pytest.raises(errors.UserError, match="give --vocab_file"):
    _prepare(tmp_path / "source", tmp_path / "b")


def _children(pid):
  """Process ids of the spawned workers of a process."""
  found = []
  for at in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(at.read_text().rsplit(")", 1)[1].split()[1])
      line = (at.parent / "cmdline").read_bytes()
    except (OSError, IndexError):
      continue  # it has ended
    if parent == pid and b"spawn_main" in line:
      found.append(int(at.parent.name))
  return found


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_a_kill_loses_nothing(source, tmp_path, victim):
  shutil.copytree(source, tmp_path / "source")
  _lines(tmp_path / "source" / "train.jsonl", [_row(k) for k in range(1000, 1300)])
  out = tmp_path / "out"
  run = [sys.executable, "-m", "data_pipelines.prepare", "narrated"]
  run += ["--source", str(tmp_path / "source"), "--out", str(out), "--processes", "2"]
  child = subprocess.Popen(run, cwd=helpers.ROOT, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 60
  while not list(out.glob("*.tmp-*")) or not _children(child.pid):
    assert child.poll() is None, child.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.05)
  workers = _children(child.pid)
  os.kill(workers[0] if victim == "worker" else child.pid, signal.SIGKILL)
  begin = time.monotonic()
  text = child.communicate(timeout=60)[1]
  assert time.monotonic() - begin < 60
  if victim == "worker":
    assert child.returncode == errors.Preempted.exit_code
    assert "a worker was killed" in text
    assert "ended with -9" in text
    assert "Traceback" not in text
    assert not list(out.glob("*.tmp-*"))
  else:
    while any(os.path.exists(f"/proc/{w}") for w in workers):  # no orphans
      assert time.monotonic() - begin < 30
      time.sleep(0.05)
  assert not (out / index.INFO).exists()
  narrated.prepare(tmp_path / "source", out, processes=1, quiet=True)
  _, found = _read(out, "train")
  assert sorted(c["key"][0] for c, _ in found) == [
    b"clip_%03d" % k for k in range(1000, 1300)
  ]
  assert not list(out.glob("*.tmp-*"))
