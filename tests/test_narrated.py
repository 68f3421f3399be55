"""The command of the experiments on generated narrated clips."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from launch import command
from tests import helpers
from vlp_jax import settings, sweep


def runs(experiment):
  narrated = importlib.import_module("launch.narrated")
  axes, told = narrated.plan(experiment, ["0", "1"])
  cells = sweep.cells([sweep.parse(text) for text in axes])
  own = [{k: v for k, v in c.items() if not k.startswith("config.")} for c in cells]
  args = (",".join(f"{k}={v}" for k, v in c.items()) for c in own)
  at = f"{helpers.ROOT}/configs/mil_nce/generated.py"
  return cells, [settings.load(command.config_of(f"{at}:{a}")) for a in args], told


def test_what_is_compared_differs_in_the_narrations_alone():
  cells, found, told = runs("misaligned")
  assert len(found) == 4 * 2 * 2
  assert told["compare"] == "loss"
  for cell, s in zip(cells, found, strict=True):
    assert s.input["dir"] == f"runs/narrated/{cell['misalignment']}s/shards"
    assert s.input["candidates"] == (4 if cell["loss"] == "mil_nce" else 1)
    assert s.evals["retrieval"]["texts"]["text"] == "caption"
    assert s.total_steps == found[0].total_steps
  amounts = [s.input["where"]["record"]["below"] for s in runs("amount")[1]]
  assert amounts == [150, 150, 600, 600, 2_400, 2_400]


@pytest.mark.slow
def test_the_command_makes_clips_trains_and_compares(tmp_path):
  """Whole, in miniature: 24 clips, two steps of each run."""
  code = (
    "from absl import flags; import launch.narrated as n; from launch import command;"
    "n.MISALIGNMENTS_S, n.AMOUNTS = (0, 4), (8, 24);"
    "flags.DEFINE_enum('experiment', None, n.EXPERIMENTS, '');"
    "flags.DEFINE_string('workdir', None, ''); flags.DEFINE_list('seed', ['0'], '');"
    "command.main(n.main, overrides=True)"
  )
  line = [sys.executable, "-c", code, f"--workdir={tmp_path}", "--seed=0,1"]
  line += ["--experiment=misaligned", "--config.total_steps=2"]
  line += [
    "--config.checkpoint.every=2",
    "--config.log_every=1",
    "--config.input.rows=8",
  ]
  done = subprocess.run(
    line, cwd=helpers.ROOT, env=os.environ, check=True, capture_output=True, text=True
  )
  assert "report: " in done.stdout
  results = json.loads((tmp_path / "misaligned" / "results.json").read_text())
  assert sum("mil_nce" in k and "max_margin" in k for k in results) >= 2, results
