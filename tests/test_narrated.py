"""The command of the experiments on generated narrated clips."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from data_pipelines.readers import crosstask as reader
from data_pipelines.synthetic import crosstask, words
from launch import command
from tests import helpers
from vlp_jax import settings, sweep

NAMES = ("shape", "colour", "action")
COMBOS = (
  ("circle", "red", "rise"),
  ("star", "blue", "fall"),
  ("ring", "green", "shake"),
  ("heart", "white", "blink"),
)


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


def test_random_weights_are_probed_as_the_trained_ones_are():
  narrated = importlib.import_module("launch.narrated")
  axes, told = narrated.plan("cbt", ["0", "1"])
  assert axes == ["random=True,False", "config.seed=0,1"]
  assert told["compare"] == "random"
  at = f"{helpers.ROOT}/configs/cbt/generated.py"
  random, trained = (
    settings.load(command.config_of(f"{at}:random={x}")) for x in (True, False)
  )
  assert random.optim["lr"] == 0.0 < trained.optim["lr"]
  for name in ("model", "input", "evals", "vocab"):
    assert getattr(random, name) == getattr(trained, name)
  outputs, inputs = (dict(trained.evals[k]) for k in ("outputs", "inputs"))
  kept = outputs.pop("output"), inputs.pop("output")
  assert kept == ("video_features", "input_features")
  assert outputs == inputs


@pytest.mark.slow
def test_the_command_makes_clips_trains_and_compares(tmp_path):
  """Whole, in miniature: 24 clips, two steps of each run."""
  code = (
    "from absl import flags; import launch.narrated as n; from launch import command;"
    "import launch.narrated_data as d; d.MOST = 24; n.MISALIGNMENTS_S = (2,);"
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


def test_steps_of_long_videos_are_tasks_in_the_files_of_crosstask(tmp_path):
  rows = [
    {
      "clip_id": f"test_long_{k:06d}",
      "steps": [
        {"start": 3.0 * j, "end": 3.0 * j + 3, **dict(zip(NAMES, combo, strict=True))}
        for j, combo in enumerate(COMBOS[: 2 + k])
      ],
    }
    for k in range(-1, 3)
  ]
  (tmp_path / "clips").mkdir()
  lines = "".join(f"{json.dumps(row)}\n" for row in rows)
  (tmp_path / "clips" / "test_long.jsonl").write_text(lines)
  assert crosstask.write(tmp_path / "clips", tmp_path / "out", keep=2) == 3
  found = reader.read(tmp_path / "out")
  assert [r.split for r in found] == ["test"] * 3
  assert [len(r.moments) for r in found] == [2] * 3
  for row, source in zip(found, rows[1:], strict=True):
    spans = [m.times[0] for m in row.moments]
    assert spans == sorted(spans)
    for moment in row.moments:
      (step,) = [s for s in source["steps"] if s["start"] == moment.times[0][0]]
      assert any(name in moment.text for name in words.COLOURS[step["colour"]])
  assert found[0].labels["steps"] != found[1].labels["steps"]
