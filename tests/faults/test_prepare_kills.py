"""`prepare` killed with SIGKILL and run again: the same bytes as an unbroken run."""

import functools
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from data_pipelines import index
from data_pipelines.prepare import narrated, shards
from data_pipelines.synthetic import corpus
from tests import helpers

CHILD = """
import functools, sys
from data_pipelines.prepare import narrated, shards
per_shard, processes = map(int, sys.argv[3:])
shards.write = functools.partial(shards.write, per_shard=per_shard)
narrated.prepare(*sys.argv[1:3], processes=processes, quiet=True)
"""


def digests(out: pathlib.Path) -> dict[str, str]:
  """name -> sha256 of all files."""
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


def workers(pid: int) -> list[pathlib.Path]:
  """The processes that a process has started, in /proc."""
  found = []
  for at in pathlib.Path("/proc").glob("[0-9]*"):
    try:
      parent = int((at / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except (OSError, IndexError):
      continue  # it has ended
    found += [at] if parent == pid else []
  return found


def kill(source, out, per_shard, processes, shards_done, delay_s, patience_s) -> int:
  """Begins or goes on, kills when so many shards are there; returns how many are."""
  arguments = map(str, (source, out, per_shard, processes))
  child = subprocess.Popen(
    [sys.executable, "-c", CHILD, *arguments],
    cwd=helpers.ROOT,
    stderr=subprocess.PIPE,
    text=True,
  )
  until = time.monotonic() + patience_s
  count = lambda: len(list(out.glob("*.index.npz")))
  while count() < shards_done:
    assert child.poll() is None, child.stderr.read()
    assert time.monotonic() < until, f"{count()} shards after {patience_s} s"
    time.sleep(0.005)
  time.sleep(delay_s)
  orphans = workers(child.pid)
  os.kill(child.pid, signal.SIGKILL)
  child.communicate()
  assert child.returncode == -signal.SIGKILL, "it ended before it was killed"
  while any(at.exists() for at in orphans):  # a worker ends with its parent
    assert time.monotonic() < until
    time.sleep(0.05)
  return count()


def check(source, tmp_path, per_shard, processes, seed, delay_s, patience_s):
  """Unbroken against twice killed; returns the figures in words."""
  rng, begin = random.Random(seed), time.monotonic()
  with pytest.MonkeyPatch.context() as patch:
    one = functools.partial(shards.write, per_shard=per_shard)
    patch.setattr(shards, "write", one)
    whole = narrated.prepare(source, tmp_path / "whole", quiet=True)
    want = digests(tmp_path / "whole")
    total = sum(name.endswith(".tfrecord") for name in want)
    unbroken_s, points, parts = time.monotonic() - begin, [], tmp_path / "parts"
    for least, most in ((1, total // 2), (total // 2 + 1, total - 5)):
      target = rng.randint(least, most)
      late = rng.uniform(0, delay_s)
      points.append(kill(source, parts, per_shard, processes, target, late, patience_s))
      assert not (parts / index.INFO).exists()
    kept = {n: d for n, d in digests(parts).items() if n.endswith(".tfrecord")}
    made = narrated.prepare(source, parts, processes=processes, quiet=True)
  assert made == whole
  assert digests(parts) == want
  assert kept.items() <= want.items(), "what is finished is not made again"
  assert total > points[1] >= points[0] > 0
  clips = sum(split["num_examples"] for split in whole["splits"].values())
  seconds = f"{unbroken_s:.0f} s unbroken, {time.monotonic() - begin:.0f} s in all"
  return f"{clips} clips, {total} shards, killed with {points} done, {seconds}"


def test_thirty_clips_killed_twice(tmp_path):
  given = dict(num_clips=24, num_val=3, num_test=3, num_long=0, seconds=1.0, size=32)
  corpus.generate(tmp_path / "source", **given, processes=1)
  check(tmp_path / "source", tmp_path, 2, 1, seed=0, delay_s=0.02, patience_s=60)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_thousand_clips_killed_twice(tmp_path, capsys):
  given = dict(num_clips=700, num_val=100, num_test=200, num_long=0)
  corpus.generate(tmp_path / "source", **given)
  size = 32  # clips a shard: the default would leave hardly a choice of moments
  told = check(tmp_path / "source", tmp_path, size, 2, 1, delay_s=3.0, patience_s=900)
  with capsys.disabled():
    print(f"\n{told}")
