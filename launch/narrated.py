"""Experiments on generated narrated clips: python -m launch.narrated --experiment E ...

  --experiment misaligned   MIL-NCE against max-margin where narrations come up to 0, 2,
                            4 and 8 s too early or late
  --experiment amount       retrieval after pretraining on 150, 600 and 2,400 clips
  --experiment steps        the seconds of named steps in longer videos, found by the
                            embedding, against evenly spaced ones

Clips are made in --workdir as needed. --seed may be a list: runs with the same seed are
paired. Started again, what is done is kept. Writes results.json and report.html.
"""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from absl import flags

from launch import command

FLAGS = flags.FLAGS
MISALIGNMENTS_S, AMOUNTS = (0, 2, 4, 8), (150, 600, 2_400)
EXPERIMENTS = ("misaligned", "amount", "steps")
NUM_LONG = 60  # videos of three to five actions


def clips(root: pathlib.Path, misalignment_s: int, num: int) -> None:
  """Generated clips and their shards under `root/<misalignment>s`; kept if there."""
  from data_pipelines.prepare import narrated
  from data_pipelines.synthetic import corpus

  at = root / f"{misalignment_s}s"
  corpus.generate(
    at / "clips",
    num_clips=num,
    num_long=0,
    size=32,
    audio=False,
    misalignment_s=misalignment_s,
    progress=True,
  )
  narrated.prepare(at / "clips", at / "shards", rate_hz=10, size=32, audio=False)


def videos(root: pathlib.Path) -> pathlib.Path:
  """Shards of longer videos with the steps of `synthetic.crosstask`."""
  from data_pipelines.prepare import clips as prepare
  from data_pipelines.synthetic import corpus, crosstask

  at, sizes = root / "long", dict(num_clips=1, num_val=0, num_test=0)
  corpus.generate(
    at / "clips", **sizes, num_long=NUM_LONG, size=32, audio=False, progress=True
  )
  crosstask.write(at / "clips", at / "steps")
  given = dict(format="crosstask", videos=str(at / "clips" / "videos" / "test_long"))
  given |= dict(rate_hz=10, size=32, clip_s=0, audio=False)
  prepare.prepare(at / "steps", at / "shards", **given)
  return at / "shards"


def located(run: pathlib.Path, data: pathlib.Path) -> dict:
  """Results of the step localisation with the model of a finished run."""
  from vlp_jax import workdir

  features, out = run / "features", run / "located"
  _tool(
    "launch.extract",
    config="configs/mil_nce/generated.py",
    checkpoint=run,
    data=data,
    output="video_embed",
    stride_s=1,
    out=features,
    **{"config.vocab.file": run.parents[1] / "2s" / "shards" / "vocab.txt"},
  )
  changes = {"config.input.dir": features}
  _tool(
    "launch.eval",
    config="configs/mil_nce/crosstask.py",
    workdir=out,
    checkpoint=run,
    **changes,
  )
  return workdir.read_results(out)


def _tool(module: str, **given) -> None:
  """Runs a command of the project. Raises: UserError when it fails."""
  args = [f"--{k}={v}" for k, v in given.items()]
  if subprocess.run([sys.executable, "-m", module, *args]).returncode:
    raise command.UserError(f"{module} ended with an error; see above.")


def plan(experiment: str, seeds: Sequence[str]) -> tuple[list[str], dict]:
  """(axes as --over takes them, what `launch.sweep.show` is told)."""
  listed = lambda name, values: f"{name}={','.join(map(str, values))}"
  told = dict(over=["config.seed"], metric="t2v_recall@10|t2v_median")
  if experiment == "misaligned":
    axes = [listed("misalignment", MISALIGNMENTS_S), "loss=max_margin,mil_nce"]
    told["compare"] = "loss"
  elif experiment == "steps":
    axes, told["metric"] = [], "steps/"
    told["against"] = {"steps/step_recall": "steps/even_recall"}
  else:
    axes = [listed("clips", AMOUNTS)]
  return [*axes, listed("config.seed", seeds)], told


def main(changes):
  from launch import sweep as sweeping
  from vlp_jax import sweep

  command.require("experiment", "workdir")
  root, kind = pathlib.Path(FLAGS.workdir), FLAGS.experiment
  for misalignment_s in MISALIGNMENTS_S if kind == "misaligned" else (2,):
    clips(root, misalignment_s, max(AMOUNTS))
  texts, told = plan(kind, FLAGS.seed)
  axes, at = [sweep.parse(text) for text in texts], root / kind
  config = f"configs/mil_nce/generated.py:root={root}"
  found = sweeping.run(config, axes, str(at), changes)
  if kind == "steps":
    data = videos(root)
    found = [(cell, located(at / sweep.place(cell), data)) for cell, _ in found]
  sweeping.show(found, axes, str(at), title=f"Narrated clips: {kind}", **told)


if __name__ == "__main__":
  flags.DEFINE_enum("experiment", None, EXPERIMENTS, "See above.")
  flags.DEFINE_string("workdir", None, "Where clips and runs live.")
  flags.DEFINE_list("seed", ["0"], "One seed, or several.")
  command.main(main, overrides=True)
