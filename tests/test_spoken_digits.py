"""The command of the experiments on speech, whole, on generated recordings."""

import json
import os
import subprocess
import sys

import pytest

from data_pipelines.synthetic import spoken
from tests import helpers

SHORT = ("total_steps=2", "checkpoint.every=2", "log_every=1", "optim.warmup=1")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["labelled", "words"])
def test_all_speakers_are_left_out_in_turn(experiment, tmp_path):
  spoken.write(tmp_path / "recordings", takes=8)
  line = [sys.executable, "-m", "launch.spoken_digits", "--source"]
  line += [str(tmp_path / "recordings"), "--experiment", experiment]
  line += ["--workdir", str(tmp_path / "out")]
  line += [f"--config.{change}" for change in SHORT]
  run = lambda: subprocess.run(
    line, cwd=helpers.ROOT, env=os.environ, check=True, capture_output=True, text=True
  )
  first = run()
  assert "report: " in first.stdout
  results = json.loads((tmp_path / "out" / "results.json").read_text())
  again = run()
  assert again.stdout.count(": done") == (1 if experiment == "labelled" else 6)
  assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
  if experiment == "words":
    mean = results["words/a2t_recall@1"]
    assert mean["chance"] == pytest.approx(0.1)
    assert mean["protocol"].startswith("mean over held and then config.seed")
