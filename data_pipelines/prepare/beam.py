"""The shards of `prepare` made by Apache Beam: `--runner=DirectRunner`, or a cluster's.

The tasks, and the code for each record, are those of the worker processes; a task makes
one shard and writes it, so the bytes are the same. `--out` must be a directory that all
workers see. Further options of the runner follow its name:

  --runner="FlinkRunner --flink_master=localhost:8081 --parallelism=8"

Needs requirements-beam.txt.
"""

import functools
import shlex
from collections.abc import Callable, Sequence

from vlp_jax import errors


def _module():
  try:
    import apache_beam
    from apache_beam.options import pipeline_options
  except ImportError:
    raise errors.UserError(
      "--runner needs the package apache-beam: pip install -r requirements-beam.txt, "
      "into an environment of its own. Without --runner, --processes does it."
    ) from None
  return apache_beam, pipeline_options


def _work(task, *, job: Callable, stop: Callable) -> int:
  """Makes a shard; an error where too much is damaged ends the pipeline early."""
  made = len(job(task))
  stop()
  return made


def run(job: Callable, tasks: Sequence, runner: str, stop: Callable[[], None]) -> None:
  """`job(task)` for all tasks, in any order, by a runner of Apache Beam.

  Args:
    job, stop: picklable; `stop` raises where the workers are to end.
    runner: its name and options.
  Raises: UserError without the package, for an unknown runner, or if a job fails.
  """
  beam, options = _module()
  name, *given = shlex.split(runner)
  # The in-process runner: the default one may want a program from the network.
  kind = "BundleBasedDirectRunner" if name == "DirectRunner" else name
  settings = options.PipelineOptions(given)
  try:
    with beam.Pipeline(runner=kind, options=settings) as pipeline:
      work = functools.partial(_work, job=job, stop=stop)
      made = pipeline | beam.Create(list(tasks)) | beam.Reshuffle()
      made | beam.Map(work)
  except Exception as error:  # whatever a runner makes of the error of a job
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    raise errors.UserError(f"--runner={runner}: {reason[:500]}") from error
