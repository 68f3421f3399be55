"""Logs after kills and restarts, and what a person sees meanwhile."""

import io
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from vlp_jax import jsonl, monitor
from vlp_jax.metrics import Mean


class Clock:
  """Seconds that pass only when told to."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def write(workdir, steps, *, start=0, **kw):
  out = kw.pop("out", io.StringIO())
  log = monitor.Monitor(workdir, 100, start_step=start, process=0, out=out, **kw)
  for step in steps:
    log.count(step, examples=4, tokens=100)
    loss = Mean(jnp.float32(10.0 / step), jnp.float32(3.0))
    log.log(step, {"z": step, "loss": loss, "empty": Mean(0.0, 0.0)})
  log.close()
  return out.getvalue()


def test_broken_run_leaves_the_bytes_of_an_unbroken_one(tmp_path):
  write(tmp_path / "a", range(1, 9))
  want = (tmp_path / "a/metrics.jsonl").read_bytes()
  first = json.loads(want.splitlines()[0])
  assert first == {"loss": 3.333333, "step": 1, "z": 1.0}
  assert list(first) == sorted(first)

  write(tmp_path / "b", range(1, 7))  # killed in step 7, checkpoint of step 4
  for name in ("metrics.jsonl", "timing.jsonl"):
    with open(tmp_path / "b" / name, "ab") as f:
      f.write(b'{"loss": 0.47')
  write(tmp_path / "b", range(5, 9), start=4)
  assert (tmp_path / "b/metrics.jsonl").read_bytes() == want
  timing = jsonl.read(tmp_path / "b/timing.jsonl")
  assert [row["step"] for row in timing] == list(range(1, 9))
  assert not list(tmp_path.glob("b/*.tmp"))


def test_damaged_and_repeated_lines_are_dropped_alone(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(
    b'{"step": 1}\n{"ste\n[3]\n{"step": 2}\n{"step": 2, "x": 1}\n{"step": 9}\n'
  )
  lines = jsonl.Lines(path, last_step=5)
  assert lines.rows() == [{"step": 1}, {"step": 2}]
  assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
  lines.add({"step": 6, "a": 1.5})
  assert path.read_bytes().splitlines()[2] == b'{"a": 1.5, "step": 6}'


def test_no_step_twice(tmp_path):
  with pytest.raises(ValueError, match="step 2 comes after step 2"):
    write(tmp_path, [1, 2, 2])
  assert len(jsonl.read(tmp_path / "metrics.jsonl")) == 2


def test_numbers_follow_one_rule():
  assert jsonl.rounded(np.float32(0.1)) == 0.1
  assert jsonl.rounded(123456789.0) == 123456800.0
  assert jsonl.rounded(float("nan")) is None
  assert jsonl.rounded(float("inf")) is None


def test_timing_counts_what_happened(tmp_path):
  clock, out = Clock(), io.StringIO()
  log = monitor.Monitor(tmp_path, 40, process=0, out=out, clock=clock, every_s=5.0)
  for step in range(1, 11):
    with log.waiting():
      clock.now += 0.25
    clock.now += 0.75
    log.count(step, examples=8, tokens=50)
  log.log(10, {"loss": 2.5, "bad": float("nan")})
  (row,) = jsonl.read(tmp_path / "timing.jsonl")
  assert row == {
    "step": 10,
    "wall_s": 10.0,
    "steps_per_s": 1.0,
    "examples_per_s": 8.0,
    "tokens_per_s": 50.0,
    "wait_share": 0.25,
  }
  assert jsonl.read(tmp_path / "metrics.jsonl")[0]["bad"] is None
  assert log.line() == (
    "step 10/40 | loss 2.5 | 8 examples/s | 50 useful tokens/s | 30 s left | "
    "25% waiting for data"
  )
  assert len(out.getvalue().splitlines()) == 2  # at the first step and 5 s later


def test_the_share_of_the_peak_is_of_useful_and_of_padded_work(tmp_path):
  clock, out = Clock(), io.StringIO()
  given = dict(process=0, out=out, clock=clock, peak_flops=1e12)
  log = monitor.Monitor(tmp_path, 40, **given)
  for step in (1, 2):
    clock.now += 1.0
    log.count(step, flops=(2e11, 5e11))
  log.log(2, {"loss": 2.5})
  (row,) = jsonl.read(tmp_path / "timing.jsonl")
  assert (row["mfu"], row["mfu_padded"]) == (0.2, 0.5)
  assert "20.0% of peak FLOP/s" in log.line()
  clock.now += 1.0
  log.count(3, flops=(1e11, 1e11))
  log.log(3, {})
  assert jsonl.read(tmp_path / "timing.jsonl")[1]["mfu"] == 0.1


def test_other_processes_write_nothing(tmp_path):
  out = io.StringIO()
  log = monitor.Monitor(tmp_path / "w", 10, process=1, out=out, tensorboard=True)
  log.count(1, examples=1)
  log.log(1, {"loss": 1.0})
  log.say("hello")
  log.close()
  assert not (tmp_path / "w").exists()
  assert out.getvalue() == ""


def test_live_line(tmp_path):
  pytest.importorskip("rich")
  text = write(tmp_path, [1, 2], live=True)
  assert "step 2/100" in text


def test_works_without_clu_rich_and_tensorflow(tmp_path):
  code = f"""
import sys
for name in ("clu", "tensorflow", "rich", "ml_collections"):
  sys.modules[name] = None  # an import of it fails
from vlp_jax import monitor
with monitor.Monitor({str(tmp_path)!r}, 2, tensorboard=True, live=True) as log:
  log.count(1, examples=1)
  log.log(1, {{"loss": 1.0}})
  log.say("done")
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=helpers.ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert "no TensorBoard files: clu is not installed" in done.stdout
  assert done.stdout.splitlines()[-1] == "done"
  assert jsonl.read(tmp_path / "metrics.jsonl") == [{"loss": 1.0, "step": 1}]


def test_remote_files_are_written_whole(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n{"st')
  lines = jsonl.Lines(path, last_step=1)
  lines.local = False  # as on gs://
  lines.add({"step": 2})
  assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_bad_records_are_written_once(tmp_path):
  assert not list(tmp_path.iterdir())
  bad = jsonl.BadRecords(tmp_path, process=0)
  assert bad.add("clip7", "JPEG cut at byte 90", source="train-00001")
  assert not bad.add("clip7", "again", source="train-00001")
  again = jsonl.BadRecords(tmp_path, process=0)
  assert not again.add("clip7", "after a restart", source="train-00001")
  assert again.add("clip7", "no frames", source="train-00002")
  rows = jsonl.read(tmp_path / "bad_records.jsonl")
  assert [row["reason"] for row in rows] == ["JPEG cut at byte 90", "no frames"]
  jsonl.BadRecords(tmp_path, process=3).add("x", "y")
  assert jsonl.read(tmp_path / "bad_records.3.jsonl")[0]["key"] == "x"


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.4, "0 s"),
    (59, "59 s"),
    (185, "3 min 05 s"),
    (7800, "2 h 10 min"),
    (370_000, "4 d 06 h"),
  ],
)
def test_duration(seconds, text):
  assert monitor.duration(seconds) == text
