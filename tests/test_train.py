"""The loop on batches in memory: learning, resume, log, signals, errors, evaluation."""

import functools
import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import helpers, toy
from vlp_jax import resolve, sources, train
from vlp_jax.errors import NumericError, Preempted, UserError
from vlp_jax.metrics import Result


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
  """`model.name="toy"` and `objective="toy:classify"` resolve to the toys."""
  real = resolve.module
  fake = lambda place, name: toy if name == "toy" else real(place, name)
  monkeypatch.setattr(resolve, "module", fake)
  monkeypatch.setattr(toy, "VARIANTS", {"mu": {}}, raising=False)


def config(**given):
  return {
    "model": {"name": "toy", "variant": "mu"},
    "tasks": {"toy": {"objective": "toy:classify"}},
    "optim": {"name": "adam", "lr": 1e-2},
    "total_steps": 40,
    "log_every": 5,
    "checkpoint": {"every": 10},
    "mesh": {"data": 1},
    "tensorboard": False,
  } | given


def run(given, workdir=None, data=None, **more):
  data = toy.batches(4) if data is None else data
  devices = more.pop("devices", jax.devices()[:1])
  return train.run(given, workdir, data=data, devices=devices, **more)


def lines(workdir):
  return (workdir / "metrics.jsonl").read_text().splitlines()


def params_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a.state.params, b.state.params)


def test_it_learns_without_a_workdir():
  out = run(config())
  assert int(out.state.step) == 40
  assert out.metrics[-1]["toy/accuracy"] > 0.6 > out.metrics[0]["toy/accuracy"]
  assert [row["step"] for row in out.metrics] == list(range(5, 41, 5))


def test_two_tasks_microbatches_and_resume_in_pieces_equal_one_run(tmp_path):
  """Ten by ten against forty: parameters and every line of the log are the same."""
  given = config(
    model={"name": "toy", "variant": "mu", "dropout": 0.1},
    tasks={
      "first": {"objective": "toy:classify", "weight": 3},
      "second": {"objective": "toy:classify", "weight": 1, "coef": 2.0},
    },
    micro=2,
  )
  whole = run(given, tmp_path / "whole")
  assert {"first/loss", "second/loss", "loss"} <= set(
    whole.metrics[-1] | whole.metrics[0]
  )
  for stop in (10, 17, 31):
    with pytest.raises(Preempted, match="stopped at step"):
      run(given, tmp_path / "parts", data=_Kills(toy.batches(4), stop))
  parts = run(given, tmp_path / "parts")
  params_equal(whole, parts)
  assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
  steps = [json.loads(x)["step"] for x in lines(tmp_path / "parts")]
  assert steps == sorted(set(steps))


@pytest.mark.multidevice
def test_a_run_on_eight_devices_goes_on_on_two(tmp_path):
  """State, optimiser, schedule and position over another mesh: the same run."""
  steady = {"name": "adam", "lr": 1e-2, "schedule": "constant"}
  given = dict(total_steps=20, optim=steady, compile_ahead=True)
  eight = config(mesh={"data": 4, "fsdp": 2}, **given)
  whole = run(eight, tmp_path / "whole", devices=jax.devices()[:8])
  run(eight | {"total_steps": 10}, tmp_path / "parts", devices=jax.devices()[:8])
  two = config(mesh={"data": 2}, **given)
  rest = run(two, tmp_path / "parts", devices=jax.devices()[:2])
  assert [row["step"] for row in rest.metrics] == [15, 20]
  near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(near, rest.state.params, whole.state.params)
  for row, want in zip(rest.metrics, whole.metrics[2:], strict=True):
    assert row == pytest.approx(want, rel=1e-4)


def test_tasks_begin_and_end_when_they_are_told():
  first = {"objective": "toy:classify"}
  given = config(tasks={"first": first, "second": first | {"start": 20, "weight": 9}})
  out = run(given)
  seen = [("first/loss" in m, "second/loss" in m) for m in out.metrics]
  assert all(one and not two for one, two in seen[:4])
  assert all(two for _, two in seen[4:])
  early = first | {"stop": 20}
  out = run(config(tasks={"first": early, "second": first | {"start": 20}}))
  seen = [("first/loss" in m, "second/loss" in m) for m in out.metrics]
  assert seen[:4] == [(True, False)] * 4
  assert set(seen[4:]) == {(False, True)}
  for tasks, step in (
    ({"first": first | {"start": 5}}, 0),
    ({"first": early, "second": first | {"start": 21}}, 20),
  ):
    with pytest.raises(UserError, match=f"none takes step {step};"):
      run(config(tasks=tasks))


def test_useful_tokens_are_timed(tmp_path):
  """Padded rows and padded places count nowhere."""
  data = toy.batches(2)
  run(config(total_steps=2, log_every=2, checkpoint={"every": 2}), tmp_path, data=data)
  row = json.loads((tmp_path / "timing.jsonl").read_text())
  real = [b["example_mask"] for b in data]
  tokens = sum((b["regions_mask"] & b["example_mask"][:, None]).sum() for b in data)
  seconds = 2 / row["steps_per_s"]
  assert row["examples_per_s"] * seconds == pytest.approx(np.sum(real), rel=1e-3)
  assert row["tokens_per_s"] * seconds == pytest.approx(tokens, rel=1e-3)


def test_a_short_run_is_profiled(tmp_path):
  given = config(total_steps=3, log_every=1, checkpoint={"every": 3})
  run(given, tmp_path, profile=True)
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))
  run(given | {"total_steps": 4}, tmp_path / "again", profile=True)  # it was ended


def test_a_finished_run_is_done(tmp_path):
  evals = {"size": lambda apply: _Norm()}
  first = run(config(), tmp_path, evals=evals)
  before = lines(tmp_path)
  again = run(config(), tmp_path, evals=evals)
  assert lines(tmp_path) == before
  assert again.results["size/norm"].value == first.results["size/norm"].value
  results = json.loads((tmp_path / "results.json").read_text())
  assert results["size/norm"]["n"] == 3


class _Norm:
  def run(self, variables):
    norm = sum(float(np.abs(x).sum()) for x in jax.tree.leaves(variables["params"]))
    yield "norm", Result(norm, 0.0, 3)


def test_averaged_parameters_are_evaluated(tmp_path):
  given = config(optim={"name": "adam", "lr": 1e-2, "ema": 0.9}, eval_every=20)
  out = run(given, tmp_path, evals={"size": lambda apply: _Norm()})
  own = next(iter(_Norm().run(out.state.variables)))[1].value
  assert out.results["size/norm"].value != own
  assert "size/norm" in json.loads(lines(tmp_path)[3])
  assert "size/norm" not in json.loads(lines(tmp_path)[2])


def test_ten_bad_batches_end_the_run_with_names(tmp_path):
  bad = [
    b | {"regions_features": np.full_like(b["regions_features"], np.nan)}
    for b in toy.batches(4)
  ]
  with pytest.raises(NumericError, match=r"step 10: .*xent.*Dense_0.*batch ids \[16"):
    run(config(), tmp_path, data=bad)
  assert not list((tmp_path / "checkpoints").glob("*/manifest.json"))


def test_one_bad_batch_is_skipped_and_counted():
  data = toy.batches(4)
  data[2]["regions_features"] = np.full_like(data[2]["regions_features"], np.inf)
  out = run(config(), data=data)
  assert out.metrics[-1]["skipped"] == 10
  assert np.isfinite(out.metrics[-1]["loss"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(totl_steps=3), r"unknown key 'totl_steps'. Did you mean 'total_steps'"),
    (dict(total_steps="many"), r"total_steps is 'many' \(str\); it must be int"),
    (dict(checkpoint={"every": 7}), r"multiple of log_every=5"),
    (dict(model={"name": "toi"}), r"no 'toi' in vlp_jax.models"),
    (dict(model={"name": "toy", "variant": "big"}), r"variant 'big'.*Known: mu"),
    (dict(model={"name": "toy", "width": 1.5}), r"width is 1.5 \(float\).*int"),
    (dict(tasks={"toy": {"objective": "toy:clasify"}}), r"Did you mean 'classify'"),
    (dict(tasks={"toy": {"objective": "toy:classify", "cof": 1}}), r"'cof'.*'coef'"),
    (dict(optim={"name": "adam", "lr": 1e-2, "warmup": 50}), r"warmup=50 exceeds"),
    (dict(optim={"name": "adam", "lr": 1e-2, "momentm": 1}), r"momentm"),
    (dict(optim={"name": "adm", "lr": 1e-2}), r"adm.*adam"),
    (dict(mesh={"data": 3}), r"does not fit 1 devices"),
    (dict(mesh={"rows": 3}), r"unknown axis 'rows'"),
    (dict(evals={"x": {"evaluator": "retrival"}}), r"Did you mean 'retrieval'"),
  ],
)
def test_mistakes_are_told_before_anything_starts(change, message):
  with pytest.raises(UserError, match=message) as caught:
    run(config() | change)
  assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_mistakes_of_a_data_run_are_told_without_tensorflow(tmp_path):
  """In a process of its own, where the import of TensorFlow would fail."""
  (tmp_path / "dataset_info.json").write_text('{"splits": {"train": {}}}')
  code = """
import sys
sys.modules["tensorflow"] = None
import jax
from launch import command
from vlp_jax import train
config = command.config_of("configs/mil_nce/howto100m.py:runlocal")
command.override(config, sys.argv[1:])
train.run(config, devices=jax.devices()[:3])
"""
  at = [f"--config.input.dir={tmp_path}", f"--config.vocab.file={tmp_path}/v.txt"]
  for changes, message in (
    (["--config.mesh={'data': 3}", "--config.input.rows=8"], "8 rows does not divide"),
    (["--config.mesh={'data': 2}"], "does not fit 3 devices"),
    (["--config.input.split=trai"], "Did you mean 'train'"),
    (["--config.optim.lr=fast"], "lr"),
    (["--config.input.task=narated_clips"], "Did you mean 'narrated_clips'"),
    (["--config.input.num_frames=3.5"], "num_frames"),
    (["--config.input.sise=64"], "sise"),
  ):
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
      [sys.executable, "-c", code, *at, *changes],
      capture_output=True,
      text=True,
      env=env,
      cwd=helpers.ROOT,
      timeout=120,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError" in last
    assert message in last


def test_missing_data_are_told_with_the_command_that_makes_them(tmp_path):
  given = config(input={"task": "text_regions", "dir": str(tmp_path), "split": "train"})
  with pytest.raises(UserError, match=r"no dataset_info.json.*data_pipelines.prepare"):
    train.run(given, devices=jax.devices()[:1])


@pytest.mark.multidevice
def test_rows_that_do_not_divide_name_valid_sizes():
  with pytest.raises(UserError, match=r"16 rows.*3 data shards.*\[15, 18\]"):
    run(config(mesh={"data": 3}), devices=jax.devices()[:3])


def test_sigterm_saves_and_leaves_with_its_own_code(tmp_path):
  data = _Kills(toy.batches(4), 13)
  with pytest.raises(Preempted, match="stopped at step"):
    run(config(), tmp_path, data=data)
  assert Preempted.exit_code == 75
  stopped = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert 8 <= stopped <= 13  # the thread that reads is a few batches ahead
  params_equal(run(config(), tmp_path), run(config()))


class _Kills(sources.Cycle):
  def __init__(self, batches, at):
    super().__init__(batches)
    self.at = at

  def __next__(self):
    if self.index == self.at:
      os.kill(os.getpid(), signal.SIGTERM)
    return super().__next__()


class _Interrupts:
  """An evaluator that is stopped by SIGTERM when it first runs."""

  def __init__(self, batches):
    self.batches, self.asked = batches, False

  def run(self, variables):
    if not self.asked:
      self.asked = True
      os.kill(os.getpid(), signal.SIGTERM)
    for _ in self.batches:
      pass
    yield from _Norm().run(variables)


def test_sigterm_in_an_evaluation_saves_and_the_next_start_evaluates(tmp_path):
  given = config(eval_every=20)
  whole = run(given, tmp_path / "whole", evals={"size": lambda apply: _Norm()})
  job = train.Run(given, tmp_path / "parts", data=toy.batches(4), devices=_one())
  checked = _Checked(job.watch.during_evaluation)
  evaluator = job.evaluators["size"] = _Interrupts(checked)
  with pytest.raises(Preempted, match="while evaluating"):
    job.train()
  assert len(lines(tmp_path / "parts")) == 3
  again = train.Run(given, tmp_path / "parts", data=toy.batches(4), devices=_one())
  again.evaluators["size"], checked.check = evaluator, again.watch.during_evaluation
  params_equal(again.train(), whole)
  assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def _one():
  return jax.devices()[:1]


class _Checked:
  def __init__(self, check):
    self.check = check

  def __iter__(self):
    self.check()
    return iter([None])
