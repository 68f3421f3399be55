"""Runs a config over a grid: python -m launch.sweep --config C --workdir DIR --over ...

  --over seed=0,1,2 --over system=clusters,random     arguments of get_config
  --over config.optim.lr=1e-3,1e-4                    values of the config
  --mean seed                        mean and standard error over the seeds
  --mean held,seed                   over `held` in each seed, then over the seeds
  --compare system                   paired differences to the first value of an axis
  --metric 'probe|recall@1'          only these
  --against caption/cider_d=copied/cider_d            of one metric to another

Every cell trains in its own directory under --workdir and is evaluated as its config
says. Started again, cells that are done are kept, and the one that was stopped goes on.
Writes results.json and report.html: means, differences, and a figure for each metric.
"""

import pathlib

from absl import flags

from launch import command

FLAGS = flags.FLAGS


def main(changes):
  command.require("config", "workdir", "over")
  from vlp_jax import sweep

  axes = [sweep.parse(text) for text in FLAGS.over]
  against = dict(text.partition("=")[::2] for text in FLAGS.against)
  told = dict(over=FLAGS.mean, compare=FLAGS.compare, metric=FLAGS.metric)
  told["against"] = against
  show(run(FLAGS.config, axes, FLAGS.workdir, changes), axes, FLAGS.workdir, **told)


def run(config: str, axes, workdir: str, changes=()) -> list:
  """Trains all cells of a config `path[:arg]`; [(cell, results)]."""
  from vlp_jax import sweep, train

  file, _, fixed = config.partition(":")

  def config_of(cell):
    own = [f"{k}={v}" for k, v in cell.items() if not k.startswith("config.")]
    made = command.config_of(f"{file}:{','.join(filter(None, [fixed, *own]))}")
    more = [f"--{k}={v}" for k, v in cell.items() if k.startswith("config.")]
    command.override(made, [*changes, *more])
    return made

  def trained(config, path):
    results = train.run(config, path).results
    for name, r in results.items():
      _say(f"  {name}: {r.value:.4g} (chance {r.chance:.3g}, n {r.n})")
    return results

  return sweep.run(config_of, axes, workdir, train=trained, say=_say)


def _say(text):
  print(text, flush=True)


def show(found, axes, workdir, *, metric="", title="Sweep", **told):
  """Prints and writes what the cells say together.

  Args:
    told: `over`, `compare`, `against` of `vlp_jax.sweep.summary`.
  """
  from vlp_jax import plots, report, sweep
  from vlp_jax import workdir as files

  over, compare = told.get("over", ()), told.get("compare", "")
  known = [a.name for a in axes]
  for name in [*over, *([compare] if compare else [])]:
    if name not in known:
      raise command.UserError(f"no axis {name!r}; there are {', '.join(known)}.")
  names = sweep.metrics(found, metric)
  results = sweep.summary(found, names, **told)
  for name, r in results.items():
    error = f" +- {r.ci / 1.96:.4f}" if r.ci == r.ci else ""
    print(f"{name}: {r.value:.4f}{error}   ({r.protocol})")
  files.write_results(workdir, results)
  # Along the bottom of figures; systems that are compared are lines, where they can be.
  shown = next((a.name for a in axes if a.name not in (*over, compare)), compare)
  figures = []
  for name in names if shown else ():
    lines: dict[str, dict[str, list[float]]] = {}
    for cell, m in sweep.means(found, name, over):
      x = cell.pop(shown)
      lines.setdefault(sweep.place(cell) if cell else "", {})[x] = list(m.values)
    figures.append((f"{name} by {shown}", plots.spread(lines, label=name)))
  cells = len(found)
  note = f"{cells} runs: {', '.join(f'{a.name} {a.values}' for a in axes)}."
  at = pathlib.Path(workdir)
  given = dict(results=results, metrics=[], figures=figures, notes=note, title=title)
  print(f"report: {report.write(at, **given)}")


if __name__ == "__main__":  # flags here: other commands import `run` and `show`
  flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
  flags.DEFINE_string("workdir", None, "Where the sweep lives.")
  flags.DEFINE_multi_string(
    "over", [], "NAME=VALUE,VALUE,...; may be given repeatedly."
  )
  flags.DEFINE_list("mean", [], "Axes to take means over, one after the other.")
  flags.DEFINE_string("compare", "", "Axis of the paired differences.")
  flags.DEFINE_multi_string("against", [], "METRIC=BASELINE; may be repeated.")
  flags.DEFINE_string("metric", "", "Regular expression on the names of metrics.")
  command.main(main, overrides=True)
