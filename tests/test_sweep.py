"""Sweeps: the grid, means one axis after the other, paired differences, resuming."""

import json
import math

import numpy as np
import pytest

from launch import sweep as command
from vlp_jax import sweep, workdir
from vlp_jax.errors import UserError
from vlp_jax.metrics import Result


def config_of(cell):
  model = dict(name="toy", width=int(cell.get("width", 16)))
  return dict(model=model, seed=int(cell["seed"]), tasks={}, optim={}, total_steps=1)


def value(cell):
  """Known: seeds differ much, systems little; held 1 lacks nothing."""
  base = {"a": 0.1, "b": 0.15, "c": 0.05}[cell["system"]]
  return base + 0.2 * int(cell["seed"]) + 0.01 * int(cell["held"])


AXES = [sweep.parse(t) for t in ("system=a,b,c", "held=0,1", "seed=0,1,2")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  at, ran = tmp_path_factory.mktemp("sweep"), []

  def train(config, path):
    cell = dict(part.split("=") for part in path.rsplit("/", 1)[1].split(","))
    ran.append(cell)
    if len(ran) == 8:
      raise KeyboardInterrupt
    results = {"probe": Result(value(cell), 0.1, 50, 0.02, "told")}
    results["loss"] = Result(1.0)
    workdir.write_start(path, config)
    workdir.write_results(path, results)
    return results

  given = dict(train=train, say=lambda text: None)
  with pytest.raises(KeyboardInterrupt):
    sweep.run(config_of, AXES, at, **given)
  first = len(ran)
  out = sweep.run(config_of, AXES, at, **given)
  assert len(out) == 18
  assert len(ran) == first + 18 - 7  # what was done is not done again
  assert [c for c, _ in out] == sweep.cells(AXES)
  again = sweep.run(config_of, AXES, at, train=None, say=lambda text: None)
  assert again == out
  return out


def test_means_are_taken_one_axis_after_the_other(found):
  got = dict((c["system"], m) for c, m in sweep.means(found, "probe", ["held", "seed"]))
  for system in "abc":
    table = np.array(
      [[value(dict(system=system, held=h, seed=s)) for h in range(2)] for s in range(3)]
    )
    seeds = table.mean(1)
    assert got[system].values == pytest.approx(seeds)
    assert got[system].value == pytest.approx(table.mean())
    assert got[system].error == pytest.approx(seeds.std(ddof=1) / math.sqrt(3))
  ((cell, one),) = sweep.means(found[:1], "probe", ["held", "seed"])
  assert cell == {"system": "a"}
  assert math.isnan(one.error)
  assert len(list(sweep.means(found, "probe"))) == 18


def test_differences_are_paired(found):
  got = {
    c["system"]: m
    for c, m in sweep.differences(found, "probe", "system", ["seed"])
    if c["held"] == "1"
  }
  assert set(got) == {"b", "c"}
  assert got["b"].value == pytest.approx(0.05)
  assert got["c"].value == pytest.approx(-0.05)
  assert got["b"].error == pytest.approx(0, abs=1e-12)  # though the seeds differ by 0.2


def test_the_summary_is_told_and_drawn(found, tmp_path, capsys):
  over = ["held", "seed"]
  command.show(found, AXES, str(tmp_path), over=over, compare="system", metric="probe")
  told = capsys.readouterr().out
  assert "system=b minus a: probe: 0.0500 +- 0.0000" in told
  assert "mean over held and then seed: 0.105, 0.305, 0.505" in told
  saved = json.loads((tmp_path / "results.json").read_text())
  assert len(saved) == 5
  assert saved["system=a: probe"]["n"] == 3
  page = (tmp_path / "report.html").read_text()
  assert "probe by system" in page
  assert page.count("<svg") >= 1
  sweeps = [(c, r | {"prior": Result(value(c) / 2)}) for c, r in found]
  many = sweep.summary(sweeps, [], over=over, against={"probe": "prior"})
  assert many["system=a: probe minus prior"].value == pytest.approx(0.305 / 2)
  with pytest.raises(UserError, match=r"no metric 'priors'\. Did you mean 'prior'"):
    sweep.summary(sweeps, [], over=over, against={"probe": "priors"})
  with pytest.raises(UserError, match="no axis 'seeds'"):
    command.show(found, AXES, str(tmp_path), over=["seeds"])
  with pytest.raises(UserError, match="finds none of probe, loss"):
    command.show(found, AXES, str(tmp_path), over=over, metric="recall")


@pytest.mark.parametrize("text", ["seed", "seed=", "=1", "a b=1", "seed=1,1"])
def test_axes_that_are_none(text):
  with pytest.raises(UserError, match="NAME=VALUE"):
    sweep.parse(text)


def test_an_axis_twice_and_a_mistake_before_the_first_run(tmp_path):
  with pytest.raises(UserError, match="twice"):
    sweep.cells([sweep.parse("a=1"), sweep.parse("a=2")])
  wrong = lambda cell: config_of(cell) | ({"sede": 1} if cell["seed"] == "1" else {})
  with pytest.raises(UserError, match="sede"):
    sweep.run(wrong, [sweep.parse("seed=0,1")], tmp_path, train=None, say=print)
