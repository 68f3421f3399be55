"""Evaluates a checkpoint: python -m launch.eval --config C --workdir DIR

Runs the evaluators of the config (`evals`) on the newest valid checkpoint of the
workdir, or on --checkpoint (a workdir, a checkpoint or an export), and writes
results.json and report.html to the workdir.
"""

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
flags.DEFINE_string("workdir", None, "Where the results go.")
flags.DEFINE_string("checkpoint", None, "Parameters; default: those of the workdir.")


def main(changes):
  command.require("config", "workdir")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  from vlp_jax import checkpoint, evaluate, report, train
  from vlp_jax import workdir as workdir_lib

  run = train.Run(config, FLAGS.workdir)
  path = FLAGS.checkpoint or FLAGS.workdir
  average = bool(run.settings.optim.get("ema"))
  variables = checkpoint.load_variables(path, average=average)
  state = evaluate.place(run.make(), variables, run.shardings)
  results = evaluate.run_all(run.evaluators, state.variables)
  workdir_lib.write_start(FLAGS.workdir, run.config)
  workdir_lib.write_results(FLAGS.workdir, results)
  for name, result in results.items():
    print(f"{name}: {result.value:.4g} (chance {result.chance:.3g}, n {result.n})")
  print(f"report: {report.of_run(FLAGS.workdir)}")


if __name__ == "__main__":
  command.main(main, overrides=True)
