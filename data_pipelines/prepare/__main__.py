"""`python -m data_pipelines.prepare DATASET --source PATH --out DIR [options]`.

Idempotent and resumable: a shard that is there is kept, a rerun makes the others.
Exit codes: 0 done, 2 a mistake of the user, 3 too many damaged records, 75 a worker
was killed (run the same command again). Instead of --processes, --runner gives the work
to Apache Beam: `prepare/beam.py`.
"""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable

from data_pipelines import command
from vlp_jax import errors, resolve

ENGINE = ("shards", "workers", "beam")  # files of this package that are no data set


def datasets() -> list[str]:
  """Names of the data sets that can be prepared."""
  package = importlib.import_module("data_pipelines.prepare")
  names = [m.name for m in pkgutil.iter_modules(package.__path__)]
  return sorted(n for n in names if n[0] != "_" and n not in ENGINE)


def _find(name: str) -> Callable:
  if name not in datasets():
    raise errors.UserError(f"no data set {name!r}.{resolve.nearest(name, datasets())}")
  return importlib.import_module(f"data_pipelines.prepare.{name}").prepare


def _options(parser, fn) -> None:
  """One option for each keyword of `fn`; a bool that is True becomes --no_<name>."""
  for name, p in inspect.signature(fn).parameters.items():
    if p.default is inspect.Parameter.empty or name == "quiet":
      continue
    if isinstance(p.default, bool):
      flag, action = (f"--no_{name}", "store_false") if p.default else (f"--{name}", "")
      parser.add_argument(flag, dest=name, action=action or "store_true")
    else:
      default = os.cpu_count() if name == "processes" else p.default
      parser.add_argument(
        f"--{name}", type=type(p.default), default=default, help=f"default: {default}"
      )


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit code."""
  return command.run(_run, argv, "; run the same command again to go on")


def _run(argv) -> int:
  names = ", ".join(datasets())
  usage = "python -m data_pipelines.prepare"
  if not argv or argv[0] in ("-h", "--help"):
    print(f"{__doc__}\nData sets: {names}.\n{usage} DATASET --help lists its options.")
    return 0 if argv else errors.UserError.exit_code
  fn = _find(argv[0])
  parser = command.Parser(f"{usage} {argv[0]}", inspect.getdoc(fn))
  parser.add_argument("--source", required=True, help="directory or file to read")
  parser.add_argument("--out", required=True, help="directory of the prepared data set")
  _options(parser, fn)
  if "processes" in inspect.signature(fn).parameters:
    told = (
      "of Apache Beam instead of processes: DirectRunner, or another, options behind"
    )
    parser.add_argument("--runner", default="", help=told)
  given = vars(parser.parse_args(argv[1:]))
  if runner := given.pop("runner", ""):
    given["processes"] = runner
  fn(given.pop("source"), given.pop("out"), **given)
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
