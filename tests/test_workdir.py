"""The lock of a workdir, and its small files."""

import json
import math
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from vlp_jax import workdir
from vlp_jax.errors import UserError
from vlp_jax.metrics import Result


def holder(tmp_path, **given):
  """Writes the lock of some job."""
  pid = given.get("pid", os.getppid())
  entry = dict(host=socket.gethostname(), pid=pid, start="2020-01-01 00:00:00 +0000")
  entry |= dict(ticks=workdir._ticks(pid), job="other", heartbeat=time.time()) | given
  (tmp_path / "lock.json").write_text(json.dumps(entry))


def test_a_second_job_is_refused_and_told_who_holds_the_lock(tmp_path):
  with workdir.lock(tmp_path / "new"):
    with (
      pytest.raises(UserError) as error,
      workdir.lock(tmp_path / "new"),
    ):
      pass
    for word in (socket.gethostname(), f"pid {os.getpid()}", time.strftime("%Y-%m-%d")):
      assert word in str(error.value)
  assert list((tmp_path / "new").iterdir()) == []
  with workdir.lock(tmp_path / "new"):  # released
    pass


@pytest.mark.parametrize(
  "given", [{}, dict(host="elsewhere", pid=1, ticks="7")], ids=["here", "other host"]
)
def test_a_living_job_is_left_alone(tmp_path, given):
  holder(tmp_path, **given)
  before = (tmp_path / "lock.json").read_text()
  with (
    pytest.raises(UserError, match="2020-01-01"),
    workdir.lock(tmp_path),
  ):
    pass
  assert (tmp_path / "lock.json").read_text() == before


def test_a_dead_job_loses_its_lock(tmp_path, caplog):
  dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                        capture_output=True, check=True)  # fmt: skip
  cases = [
    dict(pid=int(dead.stdout)),
    dict(ticks="1"),  # the pid is another process by now
    dict(host="elsewhere", heartbeat=time.time() - 100),
    dict(pid="nonsense"),
  ]
  for case in cases:
    holder(tmp_path, **({"ticks": ""} | case))
    with workdir.lock(tmp_path, stale_s=60):
      assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
  assert caplog.text.count("taking over") == len(cases)
  (tmp_path / "lock.json").write_text("")  # the disk was full
  with workdir.lock(tmp_path):
    pass


def test_the_heart_beats_and_the_lock_goes_with_an_error(tmp_path):
  read = lambda: json.loads((tmp_path / "lock.json").read_text())["heartbeat"]

  def run():
    with workdir.lock(tmp_path, beat_s=0.02):
      first, end = read(), time.time() + 10
      while read() == first:
        assert time.time() < end
        time.sleep(0.01)
      raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    run()
  assert list(tmp_path.iterdir()) == []


def test_a_lost_lock_is_not_taken_back(tmp_path):
  with workdir.lock(tmp_path):
    holder(tmp_path)
  assert json.loads((tmp_path / "lock.json").read_text())["job"] == "other"


def test_files_of_a_run(tmp_path):
  config = {"lr": np.float32(0.5), "sizes": (1, 2), "name": "x"}
  workdir.write_start(tmp_path, config)
  assert workdir.read_config(tmp_path) == {"lr": 0.5, "sizes": [1, 2], "name": "x"}
  env = workdir.read_env(tmp_path)
  assert env["num_devices"] == 8
  assert {"jax", "numpy", "optax"} <= set(env["versions"])
  assert workdir.read_results(tmp_path) == {}
  full = Result(0.5, 0.1, 7, 0.01, "all")
  workdir.write_results(tmp_path, {"a": full, "b": Result(0.25)})
  plain = json.loads((tmp_path / "results.json").read_text())
  assert plain["a"] == dict(value=0.5, chance=0.1, n=7, ci=0.01, protocol="all")
  assert plain["b"]["chance"] is None
  got = workdir.read_results(tmp_path)
  assert got["a"] == full
  assert math.isnan(got["b"].ci)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "config.json",
    "env.json",
    "results.json",
  ]
  with pytest.raises(TypeError, match="no data for json"):
    workdir.write_start(tmp_path, {"f": print})
  assert workdir.read_config(tmp_path)["name"] == "x"
