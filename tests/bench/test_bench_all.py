"""The table of goals: figures, limits, and what happens when a benchmark breaks off."""

import importlib.util
import json
import sys

import pytest
from absl import flags

from launch.bench import all as every


@pytest.mark.parametrize("name", every.BENCHES)
def test_goals_name_benchmarks_that_exist(name):
  bench = every.BENCHES[name]
  assert importlib.util.find_spec(f"launch.bench.{name}")
  assert bench.goals
  assert all(arg.startswith("--") for arg in bench.quick)


def test_a_goal_finds_its_line():
  lines = [{"case": "b", "s": 1.0}, {"case": "a", "s": 2.5, "goal": 3}]
  most = every.Goal("x", {"case": "a"}, "s", "goal")
  assert every.judge(most, lines) == ("<= 3", "2.5", "yes")
  least = every.Goal("x", {"case": "b"}, "s", 1.2, True)
  assert every.judge(least, lines) == (">= 1.2", "1", "no")
  assert every.judge(every.Goal("x", {"case": "c"}, "s", 1), lines)[2] == "not measured"


def test_a_benchmark_that_breaks_off_is_told(monkeypatch):
  script = "import sys; print('{\"s\": 1}'); print('no'); sys.exit('gone')"
  real = every.subprocess.run
  run = lambda line, **more: real([sys.executable, "-c", script], **more)
  monkeypatch.setattr(every.subprocess, "run", run)
  assert every.run("step", (), 60) == ([{"s": 1}], "exit code 1: gone")
  script = "import time; print('{\"s\": 2}', flush=True); time.sleep(60)"
  assert every.run("step", (), 0.5)[1] == "longer than 0 s"


def test_the_table_and_the_exit_code(monkeypatch, tmp_path, capsys):
  goal = every.Goal("faster", {}, "s", 1.0, True)
  monkeypatch.setattr(
    every, "BENCHES", {k: every.Bench((goal,), ("--q=1",)) for k in ("good", "bad")}
  )
  answers = {"good": ([{"s": 2.0}], ""), "bad": ([], "exit code 1: no")}
  asked = []

  def run(name, args, timeout_s):
    asked.append((name, list(args)))
    return answers[name]

  monkeypatch.setattr(every, "run", run)
  out = tmp_path / "lines.jsonl"
  given = dict(only=[], out=str(out), quick=True, torch=None, timeout_s=9)
  monkeypatch.setattr(flags, "FLAGS", type("Given", (), given))
  with pytest.raises(SystemExit) as stopped:
    every.main()
  assert stopped.value.code == 1
  assert asked == [("good", ["--q=1"]), ("bad", ["--q=1"])]
  assert [json.loads(x) for x in out.read_text().splitlines()] == [{"s": 2.0}]
  printed = capsys.readouterr().out.splitlines()
  assert printed[1].split() == ["good", "faster", ">=", "1", "2", "yes"]
  assert "FAILED: exit code 1: no" in printed[-1]
