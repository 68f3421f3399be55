"""The main job on a fresh machine: generated mp4 clips in, an evaluated model out.

  bash launch/quickstart.sh                                       about six minutes
  bash launch/quickstart.sh --config configs/quickstart.py:long   about half an hour
  bash launch/quickstart.sh --config configs/quickstart.py:fac    twelve minutes

Generates narrated clips of moving shapes as mp4 files, prepares them as shards, trains
a small MIL-NCE model and, with the same loss, a baseline that sees colour histograms,
and evaluates both on held-out combinations of shape, colour and action; `:fac` trains
MMV on picture, sound and words instead. Writes results.json and report.html to
--workdir. Started again, it resumes, or says that it is done.
"""

import pathlib
import time

from absl import flags

from launch import command

FLAGS = flags.FLAGS
SYSTEMS = {"mil_nce": "MIL-NCE", "mmv": "MMV (fine and coarse spaces)"}
flags.DEFINE_string("config", "configs/quickstart.py", "Config, with :long or others.")
flags.DEFINE_string("workdir", None, "Default runs/quickstart, with -long, -fac.")
flags.DEFINE_integer("num_clips", None, "Training clips; default 600, 2400 for long.")
flags.DEFINE_integer("num_test", 300, "Held-out clips, in galleries of 100.")
flags.DEFINE_integer("seed", 0, "Of the corpus.")


class _Clock:
  """Says how long each part took."""

  def __init__(self):
    self.start = self.last = time.monotonic()
    self.parts = {}

  def __call__(self, part):
    now = time.monotonic()
    self.parts[part], self.last = now - self.last, now
    print(f"[{now - self.start:5.0f} s] {part}: {self.parts[part]:.0f} s", flush=True)


def ceilings(rows: list[dict]) -> dict[str, float]:
  """Expected R@1 of a perfect reader of some attributes only, mean over all clips.

  Within a gallery a clip is found with probability one over the number of clips that
  share those attributes.
  """
  out = {}
  for keys in (("colour",), ("action",), ("shape",), ("colour", "action")):
    of = [(r["gallery"], *(r[k] for k in keys)) for r in rows]
    out["+".join(keys)] = sum(1 / of.count(x) for x in of) / len(of)
  return out


def main(changes):
  import json

  from data_pipelines.prepare import narrated
  from data_pipelines.synthetic import corpus
  from vlp_jax import train
  from vlp_jax import workdir as workdir_lib
  from vlp_jax.metrics import Result

  words = FLAGS.config.partition(":")[2].split(",")
  long, sound = "long" in words, "fac" in words
  name = "-".join(["quickstart", *(w for w in ("long", "fac") if w in words)])
  root = pathlib.Path(FLAGS.workdir or f"runs/{name}")
  clips, shards = root / "clips", root / "shards"
  num_clips = FLAGS.num_clips or (2_400 if long else 600)
  clock = _Clock()
  sizes = dict(num_val=0, num_long=0, num_test=FLAGS.num_test)
  corpus.generate(clips, num_clips=num_clips, seed=FLAGS.seed, progress=True, **sizes)
  clock("clips")
  narrated.prepare(clips, shards, processes=2, rate_hz=10.0, audio=sound)
  clock("shards")

  def trained(arg, workdir):
    file, _, own = FLAGS.config.partition(":")
    config = command.config_of(f"{file}:{','.join(filter(None, (own, arg)))}")
    config.input.dir, config.vocab.file = str(shards), str(shards / "vocab.txt")
    command.override(config, changes)
    run = train.Run(config, str(workdir))
    return run, run.train()

  _, colour = trained("colour", root / "colour")
  clock("baseline")
  run, out = trained("", root)
  clock("model")

  results = {k: _entry(r) for k, r in out.results.items()}
  for key, entry in results.items():
    if key in colour.results:
      entry["baselines"] = {"colour histogram": colour.results[key].value}
  shuffled = out.results["probe/probe_action_shuffled"].value
  results["probe/probe_action"]["baselines"] = {"frames shuffled": shuffled}
  rows = [json.loads(x) for x in (clips / "test.jsonl").read_text().splitlines()]
  for attributes, value in ceilings(rows).items():
    protocol = "expected R@1 of a perfect reader of these attributes alone"
    results[f"ceiling/{attributes}"] = _entry(
      Result(value, 0.01, len(rows), 0.0, protocol)
    )
  workdir_lib.write_results(root, results)
  _print(results)
  print(f"report: {_report(root, run, results, rows, clock)}")


def _entry(result):
  return {k: v for k, v in result._asdict().items() if v == v}  # without nan


def _print(results):
  for key, r in sorted(results.items()):
    more = "".join(f", {k} {v:.3f}" for k, v in r.get("baselines", {}).items())
    print(f"{key:38} {r['value']:8.3f}   chance {r.get('chance', 0):.3f}{more}")


def _report(root, run, results, rows, clock):
  from launch import examples
  from vlp_jax import report
  from vlp_jax import workdir as workdir_lib

  evaluator = run.evaluators["retrieval"]
  seen = examples.of_retrieval(evaluator, run.tokeniser) if evaluator.examples else []
  parts = ", ".join(f"{k} {v:.0f} s" for k, v in clock.parts.items())
  notes = [
    f"{SYSTEMS[run.settings.model['name']]} on generated narrated clips. Test clips "
    "show combinations of shape, colour and action that no training clip shows; "
    "queries are captions, three for each clip, within galleries of 100 clips of "
    "distinct combinations.",
    f"{len(rows)} test clips. Time: {parts}.",
  ]
  if not seen and (root / "report.html").exists():
    return root / "report.html"  # nothing was run anew
  return report.write(
    root,
    results=results,
    examples=seen,
    config=run.config,
    env=workdir_lib.read_env(root),
    notes=notes,
    title="Quickstart: narrated clips",
  )


if __name__ == "__main__":
  command.main(main, overrides=True)
