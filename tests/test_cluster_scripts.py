"""Scripts that start a run on many machines; stand-ins for ssh, gcloud and Slurm."""

import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import helpers

CONFIG = "configs/uniter/nlvr.py:runlocal"
TRAIN = ("--config", CONFIG, "--workdir", "runs/x y", "--config.seed=2")
SCRIPTS = ("slurm", "ssh", "tpu_vm")


@pytest.fixture
def stand_ins(tmp_path):
  """A function that puts a command on a PATH of its own; the PATH is `.path`."""

  def put(name, text):
    file = tmp_path / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)
    return str(file)

  put.path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
  return put


def run(script, *args, path=None, **env):
  env = os.environ | ({"PATH": path} if path else {}) | env
  return subprocess.run(
    ["bash", str(helpers.ROOT / "launch" / f"{script}.sh"), *args],
    capture_output=True,
    text=True,
    env=env,
    timeout=600,
  )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_syntax(script):
  file = helpers.ROOT / "launch" / f"{script}.sh"
  for each in (file, file.parent / "nodes.sh"):
    subprocess.run(["bash", "-n", each], check=True)
  made = run(script, "--help")
  assert made.returncode == 0
  assert f"bash launch/{script}.sh" in made.stdout
  assert "--dry_run" in made.stdout
  assert "source" not in made.stdout


@pytest.mark.parametrize(
  ("script", "args", "says"),
  [
    ("ssh", (), "give the hosts first"),
    ("ssh", ("a,b",), "--config is missing"),
    ("ssh", ("a,b", "--config", CONFIG), "--workdir is missing"),
    ("ssh", ("a,b", "--config=no.py:x", "--workdir=x"), "no.py: no such file"),
    ("ssh", ("a,;b", *TRAIN), ";b is no host name"),
    ("ssh", ("a,b", "--port", "x", *TRAIN), "--port x is not a number"),
    ("ssh", ("a,b", *TRAIN, "--port"), "--port needs a value"),
    ("ssh", ("a,b", "--env", "1=2", *TRAIN), "--env 1=2 is not NAME=VALUE"),
    ("tpu_vm", ("--zone", "z", *TRAIN[1:1]), "give the name of the TPU VM"),
    ("tpu_vm", ("pod", *TRAIN), "--zone is missing"),
    ("tpu_vm", ("pod", "--latency_hiding", *TRAIN), "is for GPUs"),
    ("slurm", ("--nodes", "two", *TRAIN), "two: --nodes, --gpus and --cpus"),
    ("slurm", ("--nodes", "0", *TRAIN), "at least 1"),
  ],
)
def test_mistakes_are_one_line(script, args, says):
  made = run(script, *args)
  assert made.returncode == 2
  assert made.stderr.startswith("error: ")
  assert made.stderr.count("\n") == 1
  assert says in made.stderr
  assert not made.stdout


def test_a_missing_command_is_told():
  made = run("slurm", *TRAIN, path="/usr/bin:/bin")
  assert (made.returncode, made.stderr.count("\n")) == (2, 1)
  assert "sbatch is not on the PATH" in made.stderr


@pytest.mark.parametrize(
  ("script", "where"),
  [
    ("slurm", ("--nodes", "2")),
    ("ssh", ("u@a,b",)),
    ("tpu_vm", ("pod", "--zone", "z")),
  ],
)
def test_a_dry_run_prints_what_would_run(script, where):
  made = run(script, *where, "--env", "A=b c", "--dry_run", *TRAIN)
  assert made.returncode == 0, made.stderr
  flat = made.stdout
  for _ in range(2 if script != "slurm" else 0):  # quoted for ssh, and once more
    flat = " ".join(shlex.split(flat))
  assert f"-m launch.train --config {CONFIG} --workdir" in flat
  assert "--config.seed=2" in flat
  if script == "ssh":
    assert "COORDINATOR_ADDRESS=a:8476 NUM_PROCESSES=2 PROCESS_ID=1" in flat
    assert made.stdout.count("\n") == 2
  if script == "slurm":
    assert "--nodes=2 --ntasks-per-node=8" in flat
    assert "env A=b\\ c python" in flat
  if script == "tpu_vm":
    assert "--worker=all" in flat
    assert "VLP_JAX_DISTRIBUTED=auto" in flat


def test_slurm_queues_a_preempted_job_again(stand_ins, tmp_path):
  stand_ins("sbatch", "exec bash")
  stand_ins("srun", 'while [[ $1 == --* ]]; do shift; done; "$@"')
  stand_ins("scontrol", 'echo "$@" > requeued')
  python = stand_ins("python", 'printf "%s\\n" "$@" > words; exit "$CODE"')
  for code, again in ((75, True), (5, False), (0, False)):
    given = ("--python", python, "--dir", str(tmp_path), "--logs", str(tmp_path / "l"))
    at = dict(path=stand_ins.path, CODE=str(code), SLURM_JOB_ID="31")
    made = run("slurm", "--gpus", "2", "--time", "1:00", *given, *TRAIN, **at)
    assert made.returncode == code, made.stderr
    asked = tmp_path / "requeued"
    assert asked.exists() is again
    if again:
      assert asked.read_text() == "requeue 31\n"
      asked.unlink()
  words = (tmp_path / "words").read_text().splitlines()
  assert words == ["-m", "launch.train", *TRAIN]


def test_slurm_does_not_queue_a_failure_again(stand_ins, tmp_path):
  """One process fails, the others are stopped and save: srun's code is the highest."""
  stand_ins("sbatch", "exec bash")
  said = "srun: error: a: task {}: Exited with exit code {}"
  lines = [said.format(task, code) for task, code in ((0, 75), (1, 2), (2, 75))]
  stand_ins("srun", f"printf '%s\\n' {shlex.join(lines)} >&2; exit 75")
  stand_ins("scontrol", 'echo "$@" > requeued')
  given = ("--dir", str(tmp_path), "--logs", str(tmp_path / "l"))
  made = run("slurm", *given, *TRAIN, path=stand_ins.path, SLURM_JOB_ID="31")
  assert made.returncode == 2
  assert lines[1] in made.stderr
  assert not (tmp_path / "requeued").exists()


def test_tpu_workers_tell_their_exit_codes(stand_ins, tmp_path):
  # Two workers in turn; the command is the last word.
  stand_ins("gcloud", 'for HOST in 1 2; do export HOST; bash -c "${@: -1}"; done')
  python = stand_ins(
    "python", 'echo "$VLP_JAX_DISTRIBUTED $*"; exit "$((CODE / HOST))"'
  )
  for code, worst in ((0, 0), (75, 37), (1, 1), (150, 150)):
    given = ("--zone", "z", "--dir", str(tmp_path), "--python", python)
    made = run("tpu_vm", "pod", *given, *TRAIN, path=stand_ins.path, CODE=str(code))
    # 75 of one and 37 of the other: an error counts more than a preemption.
    assert made.returncode == worst, (code, made.stderr)
  log = (tmp_path / "logs" / f"{socket.gethostname()}.log").read_text()
  assert log.splitlines()[0] == f"auto -m launch.train {' '.join(TRAIN)}"


@pytest.mark.parametrize(
  ("says", "left", "code"),
  [
    ("", 255, 75),
    ("ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255].", 1, 75),
    ("Connection to 10.0.0.2 closed by remote host.", 1, 75),
    ("client_loop: send disconnect: Broken pipe", 1, 75),
    ("exit code 0 of a", 255, 75),  # the other is lost
    ("exit code 1 of a", 255, 1),
    ("ERROR: (gcloud) NOT_FOUND: resource 'pod' was not found", 1, 2),
    ("ERROR: (gcloud) You do not currently have an active account", 1, 2),
    ("ERROR: (gcloud) [/usr/bin/ssh] exited with return code [2].", 2, 2),  # --setup
    ("u@10.0.0.2: Permission denied (publickey). return code [255]", 255, 2),
  ],
)
def test_a_lost_slice_counts_as_preempted_and_mistakes_do_not(
  stand_ins, says, left, code
):
  stand_ins("gcloud", f"echo {shlex.quote(says)} >&2; exit {left}")
  made = run("tpu_vm", "pod", "--zone", "z", *TRAIN, path=stand_ins.path)
  assert made.returncode == code
  told = [line for line in made.stderr.splitlines() if line.startswith("error: ")]
  assert len(told) == (code == 2)
  assert says in made.stderr


SSH = """
while [[ $1 == -* ]]; do shift 2; done
shift
exec bash -c "$*"
"""


def test_ssh_starts_each_process_and_takes_the_worst_code(stand_ins, tmp_path):
  stand_ins("ssh", SSH)
  python = stand_ins(
    "python", 'echo "$COORDINATOR_ADDRESS $NUM_PROCESSES $A"; exit $((PROCESS_ID * 75))'
  )
  given = ("--python", python, "--logs", str(tmp_path / "logs"), "--env", "A=b c")
  made = run("ssh", "u@one,two", *given, *TRAIN, path=stand_ins.path)
  assert made.returncode == 75
  assert "two: exit code 75" in made.stderr
  for i in range(2):
    log = (tmp_path / "logs" / f"process-{i}.log").read_text()
    assert log == "one:8476 2 b c\n"


def test_ssh_hands_on_a_request_to_stop(stand_ins, tmp_path):
  stand_ins("ssh", SSH)
  slow = 'trap "echo saved; exit 75" TERM; echo up; while :; do sleep 0.05; done'
  python = stand_ins("python", slow)
  logs = tmp_path / "logs"
  script = str(helpers.ROOT / "launch" / "ssh.sh")
  given = ["bash", script, "a,b", "--python", python, "--logs", str(logs), *TRAIN]
  started = subprocess.Popen(
    given, env=os.environ | {"PATH": stand_ins.path}, stderr=subprocess.PIPE, text=True
  )
  said = lambda i: (
    (logs / f"process-{i}.log").read_text()
    if (logs / f"process-{i}.log").exists()
    else ""
  )
  limit = time.monotonic() + 60
  while not all("up" in said(i) for i in range(2)):
    assert time.monotonic() < limit
    time.sleep(0.05)
  started.send_signal(signal.SIGTERM)
  started.communicate(timeout=60)
  assert started.returncode == 75
  assert all("saved" in said(i) for i in range(2))


@pytest.mark.slow
@pytest.mark.usefixtures("twins")
def test_two_processes_train_by_ssh(stand_ins, tmp_path):
  """The same command again finds the run done."""
  stand_ins("ssh", SSH)
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  work, logs = tmp_path / "run", tmp_path / "logs"
  given = ("--port", str(port), "--python", sys.executable, "--logs", str(logs))
  given += ("--config", CONFIG, "--workdir", str(work), "--config.evals={}")
  one = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
  for _ in range(2):
    made = run("ssh", "127.0.0.1,127.0.0.1", *given, path=stand_ins.path, **one)
    said = [pathlib.Path(p).read_text() for p in sorted(logs.glob("*.log"))]
    assert made.returncode == 0, (made.stderr, said)
  assert all('"step": 4' in text for text in said)
  assert (work / "results.json").exists()
