"""Runs beside one another: what differs is shown, what is missing is said."""

import re
import subprocess
import sys

import pytest

from tests import helpers
from vlp_jax import compare, jsonl, report, workdir
from vlp_jax.metrics import Result

ALL = re.compile("")


def run(at, *, lr, values, **more):
  """A workdir as a run leaves it."""
  model = dict(name="toy", width=8)
  workdir.write_start(at, dict(model=model, optim=dict(lr=lr), **more))
  workdir.write_results(at, {k: Result(x, 0.1, 50, 0.02) for k, x in values.items()})
  lines = jsonl.Lines(at / "metrics.jsonl", last_step=100)
  for step in (10, 20, 30):
    lines.add(dict(step=step, loss=lr / step))
  return at


@pytest.fixture
def runs(tmp_path):
  a = run(tmp_path / "a" / "seed=0", lr=0.1, values={"t2v_recall@1": 0.25, "nce": 2.0})
  b = run(tmp_path / "b" / "seed=0", lr=0.2, values={"t2v_recall@1": 0.5}, seed=1)
  return [str(a), str(b)]


def test_the_table_tells_results_and_settings_that_differ(runs):
  names = compare.names(runs)
  assert names == ["a/seed=0", "b/seed=0"]
  found = [compare.Run.read(p, n) for p, n in zip(runs, names, strict=True)]
  rows = {}
  for line in compare.table(found, ALL).splitlines():
    key, *cells = re.split(r"\s{2,}", line.strip())
    rows[key] = cells
  assert rows["t2v_recall@1"] == ["25.0 % ± 2.0 %", "50.0 % ± 2.0 %", "10.0 %"]
  assert rows["nce"] == ["2 ± 0.02", "-", "0.1"]
  assert rows["steps"] == ["30", "30"]
  assert rows["optim.lr"] == ["0.1", "0.2"]
  assert rows["seed"] == ["-", "1"]
  assert "model.name" not in rows
  assert "nce" not in compare.table(found, re.compile("recall")).split()


def test_the_page_has_every_run_in_one_figure(runs, tmp_path):
  found = [compare.Run.read(p, n) for p, n in zip(runs, "xy", strict=True)]
  page = compare.page(found, ALL)
  assert page["results"]["t2v_recall@1"]["baselines"] == {"y": 0.5}
  assert page["results"]["nce"]["baselines"] == {}
  (told, svg), *others = page["figures"]
  assert not others
  assert told == "loss over steps"
  assert svg.count("stroke: #") >= 2
  text = report.write(tmp_path, **page, name="comparison.html").read_text()
  assert "25.0 %" in text
  assert "50.0 %" in text


def test_names_are_as_long_as_they_must_be():
  assert compare.names(["runs/a", "runs/b/"]) == ["a", "b"]
  assert compare.names(["x/a/s", "y/a/s", "y/b/s"]) == ["x/a/s", "y/a/s", "y/b/s"]
  assert compare.names(["a"]) == ["a"]


def test_the_command(runs, tmp_path):
  show = [sys.executable, "-m", "launch.show", "--workdir"]
  given = dict(cwd=helpers.ROOT, text=True, capture_output=True, timeout=100)
  out = subprocess.run([*show, *runs], **given)
  assert out.returncode == 0, out.stderr
  at = tmp_path / "a" / "seed=0" / "comparison.html"
  assert f"report: {at}" in out.stdout
  text = at.read_text()
  assert "a/seed=0" in text
  assert "b/seed=0" in text
  wrong = subprocess.run([*show, runs[0], str(tmp_path)], **given)
  assert wrong.returncode == 2
  assert wrong.stderr.count("\n") == 1
  assert "is no workdir of a run" in wrong.stderr
