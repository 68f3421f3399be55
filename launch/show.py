"""Runs side by side: python -m launch.show --workdir DIR [DIR ...]

Prints the results of every run, and what differs between their configs, and writes a
report with one table and all curves over one another. --metric names some of them by a
regular expression, --out where the report goes (default: comparison.html of the first
directory). One run alone is shown as well.
"""

import pathlib
import re

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A workdir; others may stand behind it.")
flags.DEFINE_string("out", None, "The report; default <first workdir>/comparison.html.")
flags.DEFINE_string("metric", "", "Regular expression on the names of metrics.")


def main(others):
  command.require("workdir")
  from vlp_jax import compare, report
  from vlp_jax import workdir as files
  from vlp_jax.errors import UserError

  paths = [FLAGS.workdir, *others]
  for path in paths:
    if not (files.root(path) / "config.json").exists():
      raise UserError(f"{path} is no workdir of a run: it has no config.json.")
  if len({str(files.root(p)) for p in paths}) < len(paths):
    raise UserError("a workdir is named twice.")
  try:
    wanted = re.compile(FLAGS.metric)
  except re.error as error:
    raise UserError(f"--metric {FLAGS.metric!r} is no expression: {error}.") from error
  named = zip(paths, compare.names(paths), strict=True)
  runs = [compare.Run.read(path, name) for path, name in named]
  print(compare.table(runs, wanted))
  out = pathlib.Path(FLAGS.out or f"{FLAGS.workdir}/comparison.html")
  given = dict(title="Runs side by side", name=out.name)
  print(f"report: {report.write(out.parent, **compare.page(runs, wanted), **given)}")


if __name__ == "__main__":
  command.main(main, extra=True)
