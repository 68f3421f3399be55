"""Ladder and packing against fixed padding: python -m launch.bench.batching

Lengths are drawn like those of COCO captions (14 word pieces on average) and of a
detector with 10 to 100 regions (34); fixed padding is to 60 words + 100 regions. By
count: places computed for an epoch, what share of them is padding, and how many times
more fixed padding computes. By time: a step with gradients of a small stack of
Transformer layers, on one core, for each static shape, in alternating rounds; the times
of an epoch follow from the counts of its batches.

Goals: >= 2.8 by count, >= 2.3 by time, <= 8 rungs, <= 13 % padding (packing 3 %).
"""

import functools
import time

import numpy as np
from absl import flags

from data_pipelines import packing, plan
from launch import command
from launch.bench import timing

FIXED = 60 + 100  # words and regions


def sizes(num: int, seed: int = 0) -> np.ndarray:
  """[num, 2] int: words with [CLS] and [SEP], and regions, of each example."""
  rng = np.random.default_rng(seed)
  words = np.clip(rng.lognormal(np.log(11.5), 0.3, num), 5, 58).astype(int) + 2
  regions = np.clip(rng.gamma(3.2, 10.5, num), 10, 100).astype(int)
  return np.stack([words, regions], axis=1)


def shapes(found: np.ndarray, *, tokens: int, pack: int, max_rungs: int) -> dict:
  """case -> {(rows, length): batches of that shape in an epoch}.

  Args:
    found: [N, 2] tokens of each example; tokens: of a batch; pack: length of a row.
  """
  total = found.sum(axis=1)
  rows = tokens // FIXED
  out = {"fixed": {(rows, FIXED): -(-len(total) // rows)}}
  rungs = plan.ladder(total, tokens, max_rungs=max_rungs)
  order, counts = plan.Plan(total, rungs), np.zeros(len(rungs), int)
  for window in range(order.windows):
    for rung, _ in order.window(window)[1]:
      counts[rung] += 1
  out["ladder"] = {
    (r.rows, r.length): int(n) for r, n in zip(rungs, counts, strict=True)
  }
  rows = max(1, tokens // pack)
  order = plan.Packed(
    found, packing.widths(found, pack), pack, rows, packing.segments(found, pack)
  )
  batches = sum(len(order.window(w)[1]) for w in range(order.windows))
  out["packing"] = {(rows, pack): batches}
  return out


def count(found: np.ndarray, cases: dict) -> dict[str, dict]:
  """case -> places, padding, times_fewer, shapes."""
  real, places = int(found.sum()), {}
  for case, batches in cases.items():
    places[case] = sum(rows * length * n for (rows, length), n in batches.items())
  return {
    case: {
      "places": n,
      "padding": 1 - real / n,
      "times_fewer": places["fixed"] / n,
      "shapes": len(cases[case]),
    }
    for case, n in places.items()
  }


def steps(cases: dict, *, width: int, depth: int) -> dict[str, object]:
  """ "case rows length" -> a step with gradients that waits for its end."""
  import jax
  import jax.numpy as jnp

  from vlp_jax.layers import transformer

  stack = transformer.Stack(depth, max(1, width // 64), 4 * width, dropout=0.0)
  params = stack.init(jax.random.key(0), jnp.zeros((1, 8, width)))

  def loss(params, x, where, number):
    full = None if number is None else number[:, :, None] == number[:, None]
    y = stack.apply(params, x, where, full).x
    return jnp.where(where[..., None], y, 0).sum()

  grad, out = jax.jit(jax.grad(loss)), {}
  for case, batches in cases.items():
    for rows, length in batches:
      x = jnp.ones((rows, length, width))
      where = jnp.arange(length) < jnp.full((rows, 1), length - 3)
      number = None
      if case == "packing":
        number = jnp.broadcast_to(jnp.arange(length) // 48, (rows, length))
      run = functools.partial(grad, params, x, where, number)
      name = f"{case} {rows} {length}"
      out[name] = lambda run=run: jax.block_until_ready(run())
  return out


def seconds(cases: dict, spent: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """case -> [rounds] seconds of an epoch."""
  return {
    case: sum(
      n * spent[f"{case} {rows} {length}"] for (rows, length), n in some.items()
    )
    for case, some in cases.items()
  }


def main():
  given, core = flags.FLAGS, timing.one_core()
  found = sizes(given.corpus)
  shape = dict(pack=given.pack, max_rungs=given.max_rungs)
  cases = shapes(found, tokens=given.tokens, **shape)
  for case, facts in count(found, cases).items():
    timing.emit("batching", f"{case} by count", tokens=given.tokens, **facts)
  if not given.rounds:
    return
  cases = shapes(found, tokens=given.step_tokens, **shape)
  small = dict(width=given.width, depth=given.depth)
  # Of the process: what else runs on the core does not count.
  clock = time.process_time
  spent = timing.alternate(steps(cases, **small), given.rounds, clock=clock)
  epochs = seconds(cases, spent)
  for case, total in epochs.items():
    ratio = epochs["fixed"] / total
    timing.emit(
      "batching",
      f"{case} by time",
      core=core,
      tokens=given.step_tokens,
      useful_tokens_per_s=float(found.sum() / np.median(total)),
      times_faster=float(np.median(ratio)),
      range=[round(float(x), 3) for x in (ratio.min(), ratio.max())],
      **small,
    )


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_integer("corpus", 40_000, "Examples.")
  flags.DEFINE_integer("tokens", 10_240, "Token budget of a batch, by count.")
  flags.DEFINE_integer("step_tokens", 4_096, "Token budget of a timed batch.")
  flags.DEFINE_integer("pack", 256, "Length of packed rows.")
  flags.DEFINE_integer("max_rungs", 8, "Rungs of the ladder.")
  flags.DEFINE_integer("width", 128, "Of the timed layers.")
  flags.DEFINE_integer("depth", 2, "Timed layers.")
  flags.DEFINE_integer("rounds", 5, "Alternating rounds; 0 counts only.")
  command.main(main)
