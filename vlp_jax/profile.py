"""A profiler trace of a few steps of a run, for TensorBoard or Perfetto."""

import jax
from etils import epath

SKIP, STEPS = 10, 5  # the first steps compile and warm up


class Trace:
  """Traces `STEPS` steps after the first `SKIP`, or the last ones of a shorter run.

    trace = Trace(workdir, start, total_steps)
    for n in range(start + 1, total_steps + 1):
      trace.before(n)
      ...
    trace.close()

  Args:
    workdir: files go under workdir/profile; None traces nothing.
    start: steps done before this run; total_steps: where it ends.
  """

  def __init__(self, workdir: epath.PathLike | None, start: int, total_steps: int):
    self.folder = None if workdir is None else epath.Path(workdir) / "profile"
    self.first = start + 1 + max(0, min(SKIP, total_steps - start - STEPS))
    self.running = False

  def before(self, n: int) -> None:
    """Step n is about to be dispatched."""
    if self.folder is None:
      return
    if n == self.first:
      jax.profiler.start_trace(str(self.folder))
      self.running = True
    elif n == self.first + STEPS:
      self.close()

  def close(self) -> None:
    """Ends the trace if one is running; the run may have been stopped inside it."""
    if self.running:
      jax.profiler.stop_trace()
      self.running = False
