"""Experiments on generated narrated clips: python -m launch.narrated --experiment E ...

  --experiment misaligned   MIL-NCE against max-margin where narrations come up to 0, 2,
                            4 and 8 s too early or late
  --experiment amount       retrieval after pretraining on 150, 600 and 2,400 clips
  --experiment steps        the seconds of named steps in longer videos, found by the
                            embedding, against evenly spaced ones
  --experiment captions     sentences written by a Transformer decoder from features of
                            S3D, against the caption of the most similar training clip
  --experiment tokens       VideoBERT on words and clusters of those features: verbs in
                            the gap of a sentence, with the video and without
  --experiment cbt          CBT on features of short windows: actions in its outputs,
                            those of random weights, and the features themselves

Clips, and what else is needed, are made in --workdir. --seed may be a list: runs with
the same seed are paired. Started again, what is done is kept. Writes results.json and
report.html.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from launch import command

FLAGS = flags.FLAGS
MISALIGNMENTS_S, AMOUNTS = (0, 2, 4, 8), (150, 600, 2_400)
EXPERIMENTS = ("misaligned", "amount", "steps", "captions", "tokens", "cbt")


def plan(experiment: str, seeds: Sequence[str]) -> tuple[list[str], dict]:
  """(axes as --over takes them, what `launch.sweep.show` is told)."""
  listed = lambda name, values: f"{name}={','.join(map(str, values))}"
  told = dict(over=["config.seed"], metric="t2v_recall@10|t2v_median")
  axes = []
  if experiment == "misaligned":
    axes = [listed("misalignment", MISALIGNMENTS_S), "loss=max_margin,mil_nce"]
    told["compare"] = "loss"
  elif experiment == "amount":
    axes = [listed("clips", AMOUNTS)]
  elif experiment == "steps":
    told["metric"] = "steps/"
    told["against"] = {"steps/step_recall": "steps/even_recall"}
  elif experiment == "tokens":
    told["metric"] = "zero_shot/.*@1"
    gaps = ("colour", "object", "verb")
    told["against"] = {f"zero_shot/{k}@1": f"zero_shot/{k}@1_prior" for k in gaps}
  elif experiment == "cbt":
    axes = [listed("random", (True, False))]
    told.update(metric="probe_action", compare="random")
    told["against"] = {"outputs/probe_action": "inputs/probe_action"}
  else:
    told["metric"] = "cider|bleu4|rouge"
    told["against"] = {"caption/cider_d": "copied/cider_d"}
  return [*axes, listed("config.seed", seeds)], told


def main(changes):
  from launch import narrated_data as data
  from launch import sweep as sweeping
  from vlp_jax import sweep

  command.require("experiment", "workdir")
  root, kind = pathlib.Path(FLAGS.workdir), FLAGS.experiment
  config = f"configs/mil_nce/generated.py:root={root}"
  for misalignment_s in MISALIGNMENTS_S if kind == "misaligned" else ():
    data.clips(root, misalignment_s, data.MOST if misalignment_s == 2 else 600)
  if kind in ("amount", "steps"):
    data.clips(root, 2)
  elif kind == "captions":
    config = "configs/captioning/generated.py:features"
    own = {"input.dir": data.features(root), "vocab.file": data.words(root)}
    changes = [*(f"--config.{k}={v}" for k, v in own.items()), *changes]
  elif kind == "tokens":
    config = f"configs/videobert/generated.py:root={root}"
    data.tree(root)
    data.words(root)
  elif kind == "cbt":
    config = f"configs/cbt/generated.py:root={root}"
    data.short(root)
    data.words(root)
  texts, told = plan(kind, FLAGS.seed)
  axes, at = [sweep.parse(text) for text in texts], root / kind
  found = sweeping.run(config, axes, str(at), changes)
  if kind == "steps":
    videos = data.videos(root)
    found = [(c, data.located(root, at / sweep.place(c), videos)) for c, _ in found]
  sweeping.show(found, axes, str(at), title=f"Narrated clips: {kind}", **told)


if __name__ == "__main__":
  flags.DEFINE_enum("experiment", None, EXPERIMENTS, "See above.")
  flags.DEFINE_string("workdir", None, "Where clips and runs live.")
  flags.DEFINE_list("seed", ["0"], "One seed, or several.")
  command.main(main, overrides=True)
