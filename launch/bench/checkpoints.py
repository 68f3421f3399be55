"""How long a save holds up the loop: python -m launch.bench.checkpoints

A training state of UNITER-base with its pretraining heads (113 M parameters, 1.36 GB
with AdamW's moments) is trained and saved by `vlp_jax.checkpoint` as the train loop
does: asynchronously, from buffers that the next step may not overwrite. The next save
begins when the one before is done, as it is where saves are minutes apart.

  blocked_ms  the longest call of `save`; goal: the larger of 5 % of a step and 50 ms
  first_ms    the longest of the steps that follow a save: with a copy of the state
  beside_ms   median of the others while a save is written, on a CPU by the same cores
  step_ms     median of those that nothing disturbs
  save_s      how long the longest save took in all
"""

import dataclasses
import functools
import gc
import pathlib
import tempfile
import time

import jax
import numpy as np
from absl import flags

from launch import command
from launch.bench import timing


def measure(made, directory: str | pathlib.Path, *, saves: int, every: int) -> dict:
  """Takes at least `every` steps before each save, and after the last.

  Args:
    made: a `workload.Training`.
  """
  from vlp_jax import checkpoint

  spent = {"blocked": [], "first": [], "beside": [], "step": [], "save": []}

  def timed(name, fn):
    begin = time.perf_counter()
    fn()
    spent[name].append(time.perf_counter() - begin)

  made.run()  # compiles
  gc.freeze()  # as the train loop does after its first step
  size = sum(x.nbytes for x in jax.tree.leaves(made.state))
  with checkpoint.Checkpoints(directory, every=every, keep_last=1) as saved:
    for k in range(saves + 1):
      for _ in range(every):
        timed("step", made.run)
      if k == saves:
        break
      began, save = time.perf_counter(), functools.partial(saved.save, k + 1)
      timed("blocked", lambda save=save: save(made.state, data={}, config={}))
      timed("first", made.run)
      while not saved.running.done():
        timed("beside", made.run)
      saved.wait()
      spent["save"].append(time.perf_counter() - began)
  middle = lambda name: 1e3 * float(np.median(spent[name])) if spent[name] else None
  step, worst = middle("step"), 1e3 * max(spent["blocked"])
  goal = max(50.0, 0.05 * step)
  return {
    "state_mb": size / 1e6,
    "saves": saves,
    "step_ms": step,
    "blocked_ms": worst,
    "median_blocked_ms": middle("blocked"),
    "first_ms": 1e3 * max(spent["first"]),
    "beside_ms": middle("beside"),
    "save_s": max(spent["save"]),
    "goal": goal,
    "met": worst <= goal,
  }


def main():
  from launch.bench import workload
  from vlp_jax.models import uniter

  given = flags.FLAGS
  size = dataclasses.replace(workload.SIZES[given.size], vocab_size=28_996)
  if given.rows:
    size = dataclasses.replace(size, rows=given.rows)
  net = workload.model(size, heads=uniter.PRETRAIN)
  with tempfile.TemporaryDirectory(dir=given.dir) as directory:
    made = workload.training(size, net=net)
    found = measure(made, directory, saves=given.saves, every=given.every)
  timing.emit("checkpoints", given.size, **found)


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_enum("size", "base", ("mini", "tiny", "base"), "Of the network.")
  flags.DEFINE_integer("rows", 0, "Of the batch; 0: that of the size.")
  flags.DEFINE_integer("saves", 3, "Saves.")
  flags.DEFINE_integer("every", 3, "Undisturbed steps around them.")
  flags.DEFINE_string("dir", None, "Where to save; a temporary directory in it.")
  command.main(main)
