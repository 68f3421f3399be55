"""Every step of a run compiled before the first one, and what each costs.

A ladder of lengths has a program for each rung and task. Compiled as they come, they
would stop a run for minutes here and there, and the longest might find after hours that
the memory is too small.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures

import jax

from vlp_jax.costs import aot
from vlp_jax.errors import UserError

LONG = 200  # steps; a shorter run may never meet most of its shapes

Batch = Mapping[str, jax.ShapeDtypeStruct]


def wanted(setting: bool | None, steps: int) -> bool:
  """Whether a run with so many steps to go compiles all it may need at its start."""
  return steps >= LONG if setting is None else setting


def compile_run(run, state) -> None:
  """`compile_steps` of a `train.Run` that is about to start."""
  padded = lambda task, batch: run.flops(task, batch, None)[1]
  batches = {task: run.sources.shapes(task) for task in run.steps}
  given = dict(flops=padded, say=run.log.say)
  compile_steps(run.steps, batches, state, run.key, **given)


def compile_steps(
  steps: Mapping[str, Callable],
  batches: Mapping[str, Sequence[Batch]],
  state,
  key: jax.Array,
  *,
  flops: Callable[[str, Batch], float],
  say: Callable[[str], None],
) -> None:
  """Compiles the steps of `step.build` for all shapes, several at a time.

  Args:
    steps: by task. batches: task -> global batches with shardings; none where the
      source does not know them: such steps compile as they come.
    state, key: as the steps get them, or their shapes with shardings.
    flops: of (task, batch), 0 where there is no formula.
    say: is told of each program: seconds, FLOPs with padding, bytes of a device beside
      state and batch.
  Raises: UserError for a shape that does not fit the device.
  """
  programs = [(task, batch) for task in steps for batch in batches[task]]
  workers = min(4, os.cpu_count() or 1)
  begin = time.monotonic()
  with futures.ThreadPoolExecutor(workers, "compile") as pool:
    running = {
      pool.submit(_timed, steps[task].lower(state, batch, key)): (task, batch)
      for task, batch in programs
    }
    for done, future in enumerate(futures.as_completed(running), 1):
      task, batch = running[future]
      told = f"{task}, {describe(batch)}"
      try:
        (compiled, needed), seconds = future.result()
        if compiled is None:
          raise UserError(
            f"it does not fit the device, the compiler asks for {needed / 1e9:.1f} GB. "
            "Take fewer rows or tokens, more microbatches (micro), model.remat, or a "
            "mesh with fsdp."
          )
      except UserError as error:
        pool.shutdown(cancel_futures=True)
        raise UserError(f"the step of task {told}: {error}") from error
      steps[task].keep(batch, compiled)
      found = compiled.memory_analysis()
      size = f", {found.temp_size_in_bytes / 1e6:,.0f} MB of its own" if found else ""
      count = flops(task, batch)
      size = f", {count / 1e9:,.1f} GFLOP" * bool(count) + size
      say(f"compiled {done}/{len(programs)}: {told}: {seconds:.1f} s{size}")
  if len(programs) > 1:
    say(f"all {len(programs)} steps compiled in {time.monotonic() - begin:.0f} s")


def describe(batch: Batch) -> str:
  """Rows, and lengths of the streams: "40 rows, regions 36, text 24"."""
  masks = {k: x.shape for k, x in batch.items() if k.endswith("_mask")}
  rows = next(iter(batch.values())).shape[0]
  told = [
    f"{k.removesuffix('_mask')} {'x'.join(map(str, shape[1:]))}"
    for k, shape in sorted(masks.items())
    if len(shape) > 1 and k != "example_mask"
  ]
  return ", ".join([f"{rows:,} rows", *told])


def _timed(lowered):
  begin = time.monotonic()
  return aot.attempt(lowered), time.monotonic() - begin
