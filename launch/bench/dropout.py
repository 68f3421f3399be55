"""What dropout costs: python -m launch.bench.dropout

The training step of UNITER (see `workload`), with dropout 0.1 after embeddings,
attention and MLP and on the attention probabilities, against the same step without it,
on one pinned core, in alternating rounds, by processor time. `cost` is the median of
what a round's step took longer, `range` the smallest and largest; goal 5 %. "rbg" draws
its bits with jax's generator of that name out of a key of that kind: faster where
threefry is slow, but the masks then depend on how arrays lie on devices.
"""

import dataclasses
import time

import jax
import numpy as np
from absl import flags

from launch import command, host_memory
from launch.bench import timing

GOAL = 0.05


def cases(size, generators: tuple[str, ...]) -> dict:
  """name -> a `Training` whose `run` takes steps: "none" and one a generator."""
  from launch.bench import workload

  out = {"none": workload.training(dataclasses.replace(size, dropout=0.0))}
  for name in generators:
    made = workload.training(size)
    out[name] = dataclasses.replace(made, key=jax.random.key(0, impl=name))
  return out


def costs(spent: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """name -> [rounds], the share by which a step is longer than without dropout."""
  return {k: s / spent["none"] - 1 for k, s in spent.items() if k != "none"}


def main():
  given, core = flags.FLAGS, timing.one_core()
  host_memory.keep()
  from launch.bench import workload

  for name in given.sizes:
    made = cases(workload.SIZES[name], tuple(given.generators))
    steps = {"tiny": 8}.get(name, 1)
    run = {k: lambda m=m, n=steps: m.run(n) for k, m in made.items()}
    spent = timing.alternate(run, given.rounds, clock=time.process_time)
    for generator, cost in costs(spent).items():
      timing.emit(
        "dropout",
        f"{name} {generator}",
        core=core,
        ms=1e3 * float(np.median(spent[generator])) / steps,
        cost=float(np.median(cost)),
        range=[round(float(x), 4) for x in (cost.min(), cost.max())],
        goal=GOAL,
        met=bool(np.median(cost) <= GOAL),
      )


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_multi_enum("sizes", ("tiny", "base"), ("mini", "tiny", "base"), "Sizes.")
  flags.DEFINE_list("generators", ["threefry2x32", "rbg"], "Of the random bits.")
  flags.DEFINE_integer("rounds", 7, "Alternating rounds.")
  command.main(main)
