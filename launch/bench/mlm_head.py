"""FLOPs of the MLM step against the least there can be: python -m launch.bench.mlm_head

The step of `masked:mlm` on UNITER-base (8 rows of 15 words and 39 regions, a vocabulary
of 28,996) is compiled, and the matmuls of the compiled program are counted, those in a
loop as often as it runs. `minimum` is by the formulas of `costs.flops`: forward,
gradients of weights, and gradients of inputs where there are any (features of regions
have none), with the head at P places a row, the static maximum of the objective; goal
1.03. `of_expected` compares with a head at the words that are masked on average, which
no static shape can reach; `everywhere` is what a head at all places would cost.
"""

import dataclasses
import functools

from absl import flags

from launch import command
from launch.bench import timing

GOAL = 1.03


def minimum(size, places: float) -> float:
  """FLOPs of a training step with the head at `places` of every row."""
  from vlp_jax.costs import flops

  length = size.words + size.regions
  blocks = size.depth * flops.block(
    size.rows * length, size.width, 4 * size.width, length
  )
  head = flops.linear(size.rows * places, size.width, size.width + size.vocab_size)
  seen = flops.linear(size.rows * size.regions, size.region_dim + 7, size.width)
  return flops.TRAINING * (blocks + head) + 2 * seen


def compiled(size, max_masked: int) -> float:
  """FLOPs of the matmuls of the real step."""
  from launch.bench import workload
  from vlp_jax.costs import dots
  from vlp_jax.objectives import masked

  vocab = workload.vocab(size.vocab_size)
  mlm = functools.partial(masked.mlm, vocab=vocab, max_masked=max_masked)
  net = workload.model(size, heads=("mlm",))
  made = workload.training(size, objective=mlm, net=net)
  return dots.executed(made.lowered().compile().as_text())


def facts(size, max_masked: int, rate: float = 0.15) -> dict:
  """What the benchmark prints for a static maximum of masked words a row."""
  places = min(max_masked, size.words)
  found, least = compiled(size, max_masked), minimum(size, places)
  return {
    "places": places,
    "step_gflop": found / 1e9,
    "of_minimum": found / least,
    "goal": GOAL,
    "met": found / least <= GOAL,
    "of_expected": found / minimum(size, rate * (size.words - 2)),
    "everywhere": minimum(size, size.words + size.regions) / least,
  }


def main():
  from launch.bench import workload

  given = flags.FLAGS
  timing.one_core()
  size = dataclasses.replace(workload.SIZES[given.size], vocab_size=given.vocab_size)
  for places in map(int, given.max_masked):
    timing.emit("mlm_head", f"{given.size} P={places}", **facts(size, places))


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_enum("size", "base", ("mini", "tiny", "base"), "Of the network.")
  flags.DEFINE_integer("vocab_size", 28_996, "Words.")
  flags.DEFINE_list("max_masked", ["20", "8"], "Static maxima of masked words a row.")
  command.main(main)
