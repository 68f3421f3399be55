"""Trains a config: python -m launch.train --config configs/x/y.py[:arg] --workdir DIR

Started again with the same workdir it resumes, or says that it is done. Any value of
the config can be changed: --config.optim.lr=1e-4. Exit codes: 0 ok, 2 user error, 3 too
many damaged records, 4 checkpoint, 5 numeric failure, 75 preempted (start it again).
"""

import json

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
flags.DEFINE_string("workdir", None, "Where the run lives; local or gs://.")
flags.DEFINE_bool("profile", False, "Write a profiler trace of a few steps.")
flags.DEFINE_bool("report", True, "Write report.html at the end.")


def main(changes):
  command.require("config", "workdir")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  from vlp_jax import distributed, settings

  settings.load(config)  # unknown keys before anything heavy
  distributed.start()
  from launch import examples
  from vlp_jax import report, train

  run = train.Run(config, FLAGS.workdir, profile=FLAGS.profile)
  out = run.train()
  for name, result in out.results.items():
    print(f"{name}: {result.value:.4g} (chance {result.chance:.3g}, n {result.n})")
  pictures = examples.pictures(run.evaluators) if FLAGS.report else []  # by all hosts
  if FLAGS.report and distributed.first():
    print(f"report: {report.of_run(FLAGS.workdir, pictures=pictures)}")
  print(json.dumps({"step": int(out.state.step), "workdir": FLAGS.workdir}))


if __name__ == "__main__":
  command.main(main, overrides=True)
