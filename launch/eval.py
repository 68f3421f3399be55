"""Evaluates a checkpoint: python -m launch.eval --config C --workdir DIR

Runs the evaluators of the config (`evals`) on the newest valid checkpoint of the
workdir, or on --checkpoint (a workdir, a checkpoint or an export), and writes
results.json and report.html to the workdir.

With a config that has no `tasks` (configs/mil_nce/youcook2.py) nothing but --checkpoint
and the test data is needed: model and vocabulary are the checkpoint's own.

With a config of configs/probe it trains classifiers on frozen features of --checkpoint,
whose own config.json names the model; a directory of feature shards (launch.extract)
is taken as well. --config.data=DIR names the prepared data. Features are kept in the
workdir: a job that was stopped goes on.
"""

import sys

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
flags.DEFINE_string("workdir", None, "Where the results go.")
flags.DEFINE_string("checkpoint", None, "Parameters; default: those of the workdir.")
flags.DEFINE_bool("quiet", False, "No progress bars.")


def main(changes):
  command.require("config", "workdir")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  if "stream" in config:
    _probe(config)
    return
  if not config.get("tasks"):
    _zero_shot(config)
    return
  from launch import examples
  from vlp_jax import checkpoint, evaluate, report, restore, snapshot, train
  from vlp_jax import workdir as workdir_lib

  run = train.Run(config, FLAGS.workdir)
  path = FLAGS.checkpoint or FLAGS.workdir
  meaning = run.meaning
  restore.same_meaning(
    path, snapshot.identities(meaning["vocab"], None, meaning["trees"])
  )
  average = bool(run.settings.optim.get("ema"))
  variables = checkpoint.load_variables(path, average=average)
  state = evaluate.place(run.make(), variables, run.shardings)
  results = evaluate.run_all(run.evaluators, state.variables)
  workdir_lib.write_start(FLAGS.workdir, run.config)
  workdir_lib.write_results(FLAGS.workdir, results)
  _tell(results)
  pictures = examples.pictures(run.evaluators)
  print(f"report: {report.of_run(FLAGS.workdir, pictures=pictures)}")


def _zero_shot(config):
  command.require("checkpoint")
  from vlp_jax import distributed, report, zero_shot

  distributed.start()
  _tell(zero_shot.run(config, FLAGS.workdir, FLAGS.checkpoint))
  print(f"report: {report.of_run(FLAGS.workdir)}")


def _probe(config):
  command.require("checkpoint")
  from vlp_jax import distributed, probing, report

  distributed.start()
  given = dict(quiet=FLAGS.quiet, say=_live)
  out = probing.run(config, FLAGS.workdir, FLAGS.checkpoint, **given)
  _live("")
  if out.done:
    print(f"{FLAGS.workdir} is done: the same weights, data and protocol.")
  _tell(out.results)
  print(f"report: {report.of_run(FLAGS.workdir)}")


def _live(text):
  """What is being done: one line that changes on a terminal, else a line each."""
  if FLAGS.quiet:
    return
  if sys.stderr.isatty():
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
  elif text:
    print(text, file=sys.stderr, flush=True)


def _tell(results):
  for name, result in results.items():
    print(f"{name}: {result.value:.4g} (chance {result.chance:.3g}, n {result.n})")


if __name__ == "__main__":
  command.main(main, overrides=True)
