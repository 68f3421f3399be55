"""Whole runs under fire: SIGKILL anywhere, absent packages, another number of hosts."""

import json
import os
import random
import socket
import subprocess
import sys
import time

import pytest

from tests import helpers


def child(given, **env):
  more = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "XLA_FLAGS": ""} | env
  return subprocess.Popen(
    [sys.executable, "-m", "tests.faults.child", json.dumps(given)],
    cwd=helpers.ROOT,
    env=os.environ | more,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process, timeout=300):
  out, err = process.communicate(timeout=timeout)
  assert process.returncode == 0, err[-3000:]
  assert "done" in out
  return out


def lines(workdir):
  path = workdir / "metrics.jsonl"
  return path.read_text().splitlines() if path.exists() else []


def test_killed_at_random_moments_the_log_equals_an_unbroken_run(tmp_path):
  """Two tasks, microbatches, dropout and averaged weights; SIGKILL three times."""
  whole = child({"kind": "toy", "workdir": str(tmp_path / "whole")})
  finish(whole)
  moments = random.Random(0)
  given = {"kind": "toy", "workdir": str(tmp_path / "parts"), "delay": 0.04}
  for goal in (6, 18, 36):
    process = child(given)
    while len(lines(tmp_path / "parts")) * 2 < goal and process.poll() is None:
      time.sleep(0.02)
    time.sleep(moments.uniform(0.0, 0.4))
    process.kill()
    process.communicate()
    assert process.returncode == -9, "it ended before it was killed"
  finish(child(given | {"delay": 0.0}))
  assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
  steps = [json.loads(row)["step"] for row in lines(tmp_path / "parts")]
  assert steps == list(range(2, 61, 2))


def test_training_and_inference_without_tensorflow_and_friends(tmp_path):
  blocked = ["tensorflow", "tensorflow_text", "seqio", "clu", "ml_collections"]
  finish(child({"kind": "uniter", "workdir": str(tmp_path), "blocked": blocked}))
  assert len(lines(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_the_log_is_the_same_when_several_hosts_go_on(tmp_path, count):
  """One process with all devices; then as many processes with one each, 20 steps."""
  given = {
    "kind": "config",
    "config": "configs/uniter/nlvr.py:runlocal",
    "changes": [
      "--config.total_steps=24",
      "--config.log_every=2",
      "--config.checkpoint.every=4",
      "--config.optim.schedule=constant",
      "--config.tensorboard=False",
      "--config.evals={}",
    ],
  }
  alone = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
  finish(child(given | {"workdir": str(tmp_path / "whole")}, **alone))
  parts = given | {"workdir": str(tmp_path / "parts")}
  # A constant rate, so that the first steps are those of the whole run.
  half = [c.replace("total_steps=24", "total_steps=4") for c in given["changes"]]
  finish(child(parts | {"changes": half}, **alone))
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  hosts = [
    child(
      parts,
      COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
      NUM_PROCESSES=str(count),
      PROCESS_ID=str(i),
    )
    for i in range(count)
  ]
  for host in hosts:
    finish(host)
  both = zip(lines(tmp_path / "parts"), lines(tmp_path / "whole"), strict=True)
  for row, want in both:  # sums over hosts have another order
    assert json.loads(row) == pytest.approx(json.loads(want), rel=1e-5)
