"""Microbatches against plain steps: python -m launch.bench.accumulation

time     one step of N microbatches against N plain steps of a microbatch's size, on
         one pinned core, in alternating rounds, by processor time: `ratio`, goal 1.03
traffic  bytes that all-reduces move in a step of N microbatches on eight virtual
         devices, over those of the parameters: `of_params` is 1 where every gradient
         is summed once, and N where it is in each microbatch; goal 1.03
"""

import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
from absl import flags

from launch import command, host_memory
from launch.bench import timing

GOAL, DEVICES = 1.03, 8


def traffic(size, micro: int, devices: int) -> dict:
  """What all-reduces move in the compiled step, and how many of them there are."""
  from launch.bench import workload
  from vlp_jax import hlo

  rows = devices * micro * 2
  made = workload.training(
    dataclasses.replace(size, rows=rows), micro=micro, devices=devices
  )
  found = hlo.collectives(made.lowered().compile().as_text())["all-reduce"]
  params = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made.abstract.params))
  ratio = found["bytes"] / params
  return found | {"of_params": ratio, "goal": GOAL, "met": ratio <= GOAL}


def spent(size, micro: int, rounds: int) -> np.ndarray:
  """[rounds]: seconds of a step of `micro` microbatches over `micro` plain steps."""
  from launch.bench import workload

  plain = workload.training(size)
  whole = workload.training(
    dataclasses.replace(size, rows=micro * size.rows), micro=micro
  )
  run = {"plain": lambda: plain.run(micro), "micro": whole.run}
  found = timing.alternate(run, rounds, clock=time.process_time)
  return found["micro"] / found["plain"]


def main():
  from launch.bench import workload

  given, size = flags.FLAGS, workload.SIZES[flags.FLAGS.size]
  if given.traffic:
    print(json.dumps(traffic(size, given.micro, DEVICES)))
    return
  count = f"--xla_force_host_platform_device_count={DEVICES}"
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count}
  args = ["--traffic", f"--micro={given.micro}", f"--size={given.size}"]
  done = subprocess.run(
    [sys.executable, "-m", __spec__.name, *args],
    env=env,
    check=True,
    stdout=subprocess.PIPE,
  )
  name = f"{given.size} {given.micro} microbatches"
  facts = json.loads(done.stdout.splitlines()[-1])
  timing.emit("accumulation", f"traffic {name}", devices=DEVICES, **facts)
  core = timing.one_core()
  host_memory.keep()
  ratio = spent(size, given.micro, given.rounds)
  timing.emit(
    "accumulation",
    f"time {name}",
    core=core,
    ratio=float(np.median(ratio)),
    range=[round(float(x), 3) for x in (ratio.min(), ratio.max())],
    goal=GOAL,
    met=bool(np.median(ratio) <= GOAL),
  )


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_enum("size", "tiny", ("mini", "tiny", "base"), "Of a microbatch.")
  flags.DEFINE_integer("micro", 4, "N.")
  flags.DEFINE_integer("rounds", 5, "Alternating rounds.")
  flags.DEFINE_bool("traffic", False, "Count the traffic here, on eight devices.")
  command.main(main)
