"""What may happen to checkpoints: bit rot, cuts, SIGKILL in mid-save, a full disk."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import checkpoint
from vlp_jax.errors import CheckpointError

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}
HEAD = """
import sys, numpy as np
from vlp_jax import checkpoint
def state(step):
  w = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
  return {"w": w}
saved = checkpoint.Checkpoints(sys.argv[1], every=5)
save = lambda step: saved.save(step, state(step), data={"at": step}, config={})
say = lambda *words: print(*words, flush=True)
"""


def value(step):
  return np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)


def child(body, path, **given):
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  command = [sys.executable, "-c", HEAD + body, str(path)]
  return subprocess.Popen(
    command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, **given
  )


def restored(path):
  """The step that a new start finds; its values are those of the step."""
  with checkpoint.Checkpoints(path) as saved:
    got = saved.restore(SHAPE)
  np.testing.assert_array_equal(got.state["w"], value(got.step))
  assert got.data == {"at": got.step}
  return got.step


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
  path = tmp_path_factory.mktemp("two_steps")
  with checkpoint.Checkpoints(path) as saved:
    for step in (1, 2):
      state = {"w": jnp.asarray(value(step))}
      saved.save(step, state, data={"at": step}, config={"model": "m"})
  return path


def files(path):
  return sorted(p for p in path.rglob("*") if p.is_file())


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1 << (len(content) % 8)
  path.write_bytes(content)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
  path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, halve, empty, os.remove])
def test_each_file_is_guarded(two_steps, tmp_path, harm, caplog):
  names = [p.relative_to(two_steps) for p in files(two_steps / "checkpoints/2")]
  assert len(names) > 8
  for name in names:
    if name.name == "manifest.json" and harm is os.remove:
      continue  # without it, the step was never finished
    if name.name == "vocab.json" and harm is halve:
      assert (two_steps / name).stat().st_size > 1
    shutil.copytree(two_steps, tmp_path / "run")
    harm(tmp_path / "run" / name)
    caplog.clear()
    assert restored(tmp_path / "run") == 1
    assert str(name) in caplog.text
    with (
      checkpoint.Checkpoints(tmp_path / "run", read_only=True) as saved,
      pytest.raises(CheckpointError, match=name.name),
    ):
      saved.restore(SHAPE, step=2)
    shutil.rmtree(tmp_path / "run")


def test_no_valid_checkpoint_is_an_error_and_not_a_fresh_start(two_steps, tmp_path):
  shutil.copytree(two_steps, tmp_path / "run")
  for step in (1, 2):
    flip(tmp_path / f"run/checkpoints/{step}/data.json")
  with (
    checkpoint.Checkpoints(tmp_path / "run") as saved,
    pytest.raises(CheckpointError, match=r"none of 2.*2/data.json.*1/data.json") as e,
  ):
    saved.restore(SHAPE)
  assert e.value.exit_code == 4
  with pytest.raises(CheckpointError, match="none of 2"):
    checkpoint.load_variables(tmp_path / "run")


def test_a_damaged_step_is_saved_anew(two_steps, tmp_path):
  shutil.copytree(two_steps, tmp_path / "run")
  flip(tmp_path / "run/checkpoints/2/config.json")
  with checkpoint.Checkpoints(tmp_path / "run") as saved:
    assert saved.restore(SHAPE).step == 1
    saved.save(2, {"w": jnp.asarray(value(2))}, data={"at": 2}, config={})
  assert restored(tmp_path / "run") == 2


def test_empty_directories_and_leftovers(two_steps, tmp_path, caplog):
  shutil.copytree(two_steps, tmp_path / "run")
  at = tmp_path / "run/checkpoints"
  (at / "9").mkdir()
  (at / "8/state.orbax-checkpoint-tmp").mkdir(parents=True)
  (at / "8/state.orbax-checkpoint-tmp/part").write_text("x")
  (at / "7.orbax-checkpoint-tmp-1").mkdir()
  with checkpoint.Checkpoints(tmp_path / "run", read_only=True) as saved:
    assert saved.restore(SHAPE).step == 2
  assert (at / "8").exists()  # a reader removes nothing: a job may be writing
  assert (at / "9").exists()
  caplog.clear()
  assert restored(tmp_path / "run") == 2
  assert f"{at / '9'} is empty; it is ignored" in caplog.text
  assert sorted(p.name for p in at.iterdir()) == ["1", "2"]
  with checkpoint.Checkpoints(tmp_path / "run") as saved:
    saved.save(9, {"w": jnp.asarray(value(9))}, data={"at": 9}, config={})
  assert restored(tmp_path / "run") == 9


KILLED = """
save(1)
saved.wait()
say("saved 1")
for step in range(2, 10_000):
  save(step)
  say("started", step)
"""


@pytest.mark.parametrize("delay_ms", [0, 7, 23, 61])
def test_sigkill_in_mid_save(tmp_path, delay_ms):
  process = child(KILLED, tmp_path)
  try:
    assert process.stdout.readline() == "saved 1\n"
    assert process.stdout.readline() == "started 2\n"
    time.sleep(delay_ms / 1000)
  finally:
    process.send_signal(signal.SIGKILL)
    told = process.communicate()[0].splitlines()
  # A save that starts has waited for the one before.
  last = int(told[-1].split()[1]) if told else 2
  assert restored(tmp_path) in (last - 1, last, last + 1)
  left = sorted((tmp_path / "checkpoints").iterdir())
  assert all((p / "manifest.json").exists() for p in left), left
  assert not list(tmp_path.rglob("*tmp*"))


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails, as on a full disk
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
limit = lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
from vlp_jax.errors import CheckpointError
save(1)
saved.wait()
limit(3000)
save(2)
save(3)  # warns of 2
try:
  saved.wait()
except CheckpointError as error:
  say("failed", saved.failures, error)
limit(hard)
save(4)
saved.wait()
say("steps", saved.steps(), saved.failures)
limit(3000)
for step in (5, 6, 7):
  save(step)
try:
  save(8)
except CheckpointError as error:
  say("stopped", error.exit_code, error)
say("steps", saved.steps())
saved.close()
"""


def test_a_full_disk(tmp_path):
  process = child(FULL, tmp_path, stderr=subprocess.PIPE)
  out, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  lines = out.splitlines()
  assert lines[0].startswith("failed 2 checkpoint 3 was not saved")
  assert lines[1] == "steps [1, 4] 0"
  assert lines[2].startswith("stopped 4 3 checkpoints in a row were not saved")
  assert "File too large" in lines[2]
  assert lines[3] == "steps [1, 4]"
  assert errors.count("was not saved (failure 1 of 3") == 2
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "4"]
  assert restored(tmp_path) == 4


TWO = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
import numpy as np
index = int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("127.0.0.1:" + sys.argv[2], 2, index)
from jax.sharding import NamedSharding, PartitionSpec
from vlp_jax import checkpoint, manifest, workdir
from vlp_jax.errors import CheckpointError, UserError
say = lambda *words: print(*words, flush=True)
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
at = NamedSharding(mesh, PartitionSpec("data"))
def state(step):
  w = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
  return {"w": jax.make_array_from_callback(w.shape, at, lambda i: w[i])}
def refused(*_):
  raise OSError("no space left")
real = manifest.commit
with workdir.lock(sys.argv[1]), checkpoint.Checkpoints(sys.argv[1]) as saved:
  save = lambda step: saved.save(step, state(step), data={"at": step}, config={})
  say(saved.restore(state(0)))
  save(1)
  save(2)
  saved.wait()
  got = saved.restore(state(0))
  for a, b in zip(got.state["w"].addressable_shards, state(2)["w"].addressable_shards):
    np.testing.assert_array_equal(a.data, b.data)
  manifest.commit = refused if index == 0 else real
  save(3)
  try:
    saved.wait()
  except CheckpointError as error:
    say("failed", error.exit_code, saved.failures)
  manifest.commit = real
  try:
    with workdir.lock(sys.argv[1]):
      say("not refused")
  except UserError as error:
    say("refused", "pid" in str(error))
say(saved.steps())
"""


@pytest.mark.slow
@pytest.mark.multidevice
def test_two_processes_agree_on_what_was_saved(tmp_path):
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = str(s.getsockname()[1])
  command = lambda i: [sys.executable, "-c", TWO, str(tmp_path), port, str(i)]
  given = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  given["env"] = os.environ | {"JAX_PLATFORMS": "cpu"}
  both = [subprocess.Popen(command(i), **given) for i in (0, 1)]
  try:
    told = [p.communicate(timeout=60) for p in both]
  finally:
    for p in both:
      p.kill()
  want = ["None", "failed 4 1", "refused True", "[1, 2]"]
  assert [out.splitlines()[-4:] for out, _ in told] == [want, want], told
  assert restored(tmp_path) == 2  # one process, other devices
