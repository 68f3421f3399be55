"""One train step against plain linen and PyTorch: python -m launch.bench.step

    python -m launch.bench.step --torch=/path/to/python     # whose torch is the peer

A single-stream Transformer (UNITER over words and regions, matching loss), forward,
backward and AdamW, float32, on one pinned core: ours through `vlp_jax.step`,
`peers/plain_linen.py` as a user of flax would write it, and `peers/torch_eager.py` in a
process of its own, with attention by `nn.TransformerEncoderLayer` and written out. Ours
takes the logits of a pair from `Model.pooled`, whose last layer runs for the tokens
that are read alone; `all states` is the same step by the model's call, which runs it
for all as the peers do. Layers are unrolled in each.

In alternating rounds, by processor time; `times_faster` are medians of the ratios of a
round, `range` the smallest and largest, `middle_half` their quartiles. All keep freed
memory (`launch.host_memory`); `--nokeep_memory` leaves it to the C library.

Goals: tiny (4 layers x 256, 16 rows x 64) >= 1.0 of torch and >= 1.3 of plain linen,
base (12 x 768, 8 rows x 54) >= 1.1 of torch.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
from absl import flags

from launch import command, host_memory
from launch.bench import timing
from vlp_jax.errors import UserError

PEERS = pathlib.Path(__file__).parent / "peers"
WARM = 5  # rounds until the heap of a large network no longer grows
GOALS = {("tiny", "torch"): 1.0, ("tiny", "linen"): 1.3, ("base", "torch"): 1.1}


class Torch:
  """The process of the PyTorch peer; called, it returns its seconds of `steps`."""

  def __init__(
    self,
    python: str,
    given: dict,
    steps: int,
    *,
    file: str = "torch_eager.py",
    env: dict[str, str] | None = None,
  ):
    if shutil.which(python) is None:
      raise UserError(f"--torch={python}: no such program; give a Python with torch.")
    self.steps, file = steps, str(PEERS / file)
    self.process = subprocess.Popen(
      [python, file, json.dumps(given)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | (env or {}),
    )
    self.version = self._answer().split()[-1]

  def _answer(self) -> str:
    line = self.process.stdout.readline()
    if not line:
      self.close()
      raise UserError(f"the PyTorch peer ended with code {self.process.returncode}.")
    return line

  def __call__(self) -> float:
    self.process.stdin.write(f"{self.steps}\n")
    self.process.stdin.flush()
    return float(self._answer())

  def close(self):
    self.process.stdin.close()
    self.process.wait()
    self.process.stdout.close()


def measure(
  name: str, *, rounds: int, steps: int, torch: str | None = None, keep: bool = True
) -> dict[str, np.ndarray]:
  """case -> [rounds] processor seconds of a step; "ours" and the peers.

  Args:
    torch: a Python that has it; keep: whether its process keeps freed memory.
  """
  from launch.bench import workload
  from launch.bench.peers import plain_linen

  size = workload.SIZES[name]
  net, cases, others = workload.model(size, unroll=size.depth), {}, []
  clock = lambda fn: timing.spent(fn, time.process_time)
  for case, objective in (("ours", workload.pooled), ("all states", workload.itm)):
    ours = workload.training(size, objective=objective, net=net)
    cases[case] = clock(functools.partial(ours.run, steps))
  run = plain_linen.build(size, workload.batch(size))
  cases["linen"] = clock(lambda: run(steps))
  try:
    for kind in ("layer", "matmul") if torch else ():
      given = dataclasses.asdict(size) | {"attention": kind}
      env = host_memory.KEEP if keep else None
      others.append(Torch(torch, given, steps, env=env))
      cases[f"torch {kind}"] = others[-1]
    found = timing.alternate(cases, rounds, clock=None, warm=WARM)
  finally:
    for other in others:
      other.close()
  return {k: x / steps for k, x in found.items()}


def report(name: str, found: dict[str, np.ndarray], core: int) -> list[dict]:
  """A line a case; torch is the faster of its two in every round."""
  found = dict(found)
  both = [found[k] for k in found if k.startswith("torch")]
  if both:
    found["torch"] = np.min(both, axis=0)
  out = []
  for case, s in found.items():
    ratio, goal = s / found["ours"], GOALS.get((name, case))
    more = {} if goal is None else dict(goal=goal, met=bool(np.median(ratio) >= goal))
    if case != "ours":
      more["times_faster"] = float(np.median(ratio))
      low, q1, q3, high = np.quantile(ratio, [0, 0.25, 0.75, 1]).round(3).tolist()
      more |= dict(range=[low, high], middle_half=[q1, q3])
    ms = 1e3 * float(np.median(s))
    out.append(timing.emit("step", f"{name} {case}", core=core, ms=ms, **more))
  return out


def main():
  given, core = flags.FLAGS, timing.one_core()
  if given.keep_memory:
    host_memory.keep()
  if not given.torch:
    print("no --torch=PYTHON: the PyTorch peer is left out.", file=sys.stderr)
  for name in given.sizes:
    steps = given.steps or {"tiny": 8}.get(name, 1)
    more = dict(torch=given.torch, keep=given.keep_memory)
    found = measure(name, rounds=given.rounds, steps=steps, **more)
    report(name, found, core)


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_multi_enum("sizes", ("tiny", "base"), ("mini", "tiny", "base"), "Sizes.")
  flags.DEFINE_integer("rounds", 7, "Alternating rounds.")
  flags.DEFINE_integer("steps", 0, "Steps a round; 0: 8 of tiny, 1 of base.")
  flags.DEFINE_string("torch", None, "A Python that has torch.")
  flags.DEFINE_bool("keep_memory", True, "Keep freed memory, in all processes.")
  command.main(main)
