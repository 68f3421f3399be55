"""Training steps on one GPU: python -m launch.bench.gpu [--torch=/path/to/python]

Forward, backward and AdamW of UNITER-base (54 tokens), of the same at the 197 tokens of
a ViT-B on 224 x 224 pixels, of S3D-G with MIL-NCE and of TSM-ResNet-50, both on 32
frames of 224 x 224. Bfloat16 computation on float32 parameters; MFU is the FLOPs that
the step needs by formula (`vlp_jax.costs`), padding and recompute left out, over the
chip's dense bfloat16 peak, 989 TFLOP/s on H100 and H200. Wall-clock medians of
alternating rounds; `range` are the smallest and largest ratio of a round.

  P14  MFU >= 50 % of the two Transformers, >= 30 % of S3D and TSM-50
  P15  bfloat16 >= 4 times as fast as float32
  P16  >= 1.5 times the tokens/s of torch.compile + bfloat16 + SDPA (with --torch)

Needs neither TensorFlow nor ml_collections. --cpu --tiny runs the smallest shapes on a
CPU, to see that all works; its numbers mean nothing.
"""

import dataclasses
import os

# Before jax starts: the PyTorch peer needs memory of the same GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from launch import command
from launch.bench import step, timing
from vlp_jax.errors import UserError

MFU = {"uniter_base": 0.5, "vit_base": 0.5, "s3d": 0.3, "tsm_resnet50": 0.3}
AGAINST_FLOAT32, AGAINST_TORCH = 4.0, 1.5


@dataclasses.dataclass(frozen=True)
class Case:
  """What a step computes.

  Attributes:
    model: name and keywords for `resolve.model`; batch: [rows, ...] arrays by key.
    size: for the PyTorch peer, None where there is none.
  """

  model: dict[str, Any]
  batch: dict[str, np.ndarray]
  objective: Callable
  size: Any = None


def cases(names, *, tiny: bool, attention: str | None = None) -> dict[str, Case]:
  """The named cases; `attention`: see `layers.attention`, it has no dropout then."""
  makes = {
    "uniter_base": functools.partial(transformer, 1024, 20, 34),
    "vit_base": functools.partial(transformer, 384, 1, 196),
    "s3d": s3d,
    "tsm_resnet50": tsm,
  }
  return {n: makes[n](tiny=tiny, attention=attention) for n in names}


def transformer(rows, words, regions, *, tiny, attention) -> Case:
  """12 layers x 768 over words and regions, with the matching loss."""
  from launch.bench import workload

  size = workload.Size(768, 12, 12, rows=rows, words=words, regions=regions)
  if tiny:
    small = dict(rows=2, words=min(words, 4), regions=4)
    size = dataclasses.replace(workload.SIZES["mini"], **small)
  own = ("width", "depth", "num_heads", "region_dim", "dropout", "vocab_size")
  model = dict(name="uniter", heads=("itm",), **{k: getattr(size, k) for k in own})
  if attention:
    model |= dict(implementation=attention, attention_dropout=0.0)
  return Case(model, workload.batch(size), workload.itm, size)


def clips(rows: int, frames: int, side: int) -> dict[str, np.ndarray]:
  """Random clips, all of them real."""
  rng = np.random.default_rng(0)
  return {
    "video_frames": rng.integers(0, 256, (rows, frames, side, side, 3), np.uint8),
    "video_mask": np.ones((rows, frames), bool),
    "example_id": np.arange(rows, dtype=np.int32),
    "example_mask": np.ones(rows, bool),
  }


def s3d(*, tiny, attention) -> Case:
  """MIL-NCE on clips and four narrations of 20 words."""
  from vlp_jax.objectives import contrastive

  rows, words, variant = (2, 4, "mu") if tiny else (128, 20, "s3d")
  batch = clips(rows, *((8, 32) if tiny else (32, 224)))
  ids = np.random.default_rng(1).integers(5, 100, (rows, 4, words), np.int32)
  batch |= {"narration_ids": ids, "narration_mask": np.ones(ids.shape, bool)}
  model = dict(name="mil_nce", variant=variant, vocab_size=66_250)
  return Case(model, batch, contrastive.mil_nce)


def tsm(*, tiny, attention) -> Case:
  """Clips in 400 classes."""
  from vlp_jax.objectives import classify

  batch = clips(*((2, 4, 32) if tiny else (64, 32, 224)))
  batch["label"] = np.arange(len(batch["example_id"]), dtype=np.int32)
  model = dict(name="classifier", variant="tsm_resnet", num_classes=400)
  if tiny:
    model["tower_args"] = dict(depths=(1, 1), widths=(8, 16), stem_width=4)
  return Case(model, batch, classify.softmax)


def build(case: Case, dtype: str) -> tuple[Callable[[int], None], float]:
  """(run(steps), which waits for the last; FLOPs that a step needs)."""
  import jax

  from launch.bench import workload
  from vlp_jax import costs, optim, resolve, sharding
  from vlp_jax import state as state_lib
  from vlp_jax import step as step_lib

  model = resolve.model(case.model | {"dtype": dtype})
  mesh = sharding.mesh(None, jax.devices()[:1])
  tx_of = lambda p: optim.build(p, **workload.ADAMW)
  make, _, shardings, tx = state_lib.init(model, tx_of, mesh)
  apply = state_lib.make_apply(model)
  given = dict(apply=apply, tx=tx, mesh=mesh, shardings=shardings)
  take = step_lib.build(case.objective, **given)
  batch, key = sharding.put(case.batch, mesh), jax.random.key(0)
  key = jax.device_put(key, sharding.replicated(mesh))
  held = {"state": make()}

  def run(steps: int) -> None:
    for _ in range(steps):
      held["state"], means = take(held["state"], batch, key)
    jax.block_until_ready(means)

  return run, costs.useful_flops(model, batch, objective=case.objective)


def measure(
  name: str,
  case: Case,
  *,
  rounds: int,
  steps: int,
  torch: str | None = None,
  dtypes: tuple[str, ...] = ("bfloat16", "float32"),
  compiled: bool = True,
) -> list[dict]:
  """Runs a case and prints its lines: P14, P15, and with `torch` P16."""
  import jax

  from vlp_jax import costs

  runs, peer = {d: build(case, d) for d in dtypes}, None
  clock = lambda run: timing.spent(lambda: run(steps), time.perf_counter)
  timed = {d: clock(run) for d, (run, _) in runs.items()}
  if torch and case.size is not None:
    given = dataclasses.asdict(case.size) | {"compile": compiled}
    given["attention_dropout"] = case.model.get("attention_dropout", case.size.dropout)
    given["device"] = "cpu" if jax.default_backend() == "cpu" else "cuda"
    peer = step.Torch(torch, given, steps, file="torch_compiled.py")
    timed["torch"] = peer
  try:
    found = timing.alternate(timed, rounds, clock=None)
  finally:
    if peer is not None:
      peer.close()
  first, out = dtypes[0], []
  rows, device = len(case.batch["example_id"]), jax.devices()[0]
  mesh = jax.make_mesh((1,), ("data",), devices=[device])
  for kind, seconds in found.items():
    each, goal, reached = float(np.median(seconds)) / steps, None, 0.0
    facts = dict(device=device.device_kind, rows=rows, ms=1e3 * each)
    facts["rows_s"] = rows / each
    if kind in runs:
      facts["flops"] = flops = float(runs[kind][1])
      peak = costs.peak(mesh, kind)
      facts["mfu"] = flops / each / peak if peak else None
    if kind == "bfloat16":
      goal, reached = MFU[name], facts["mfu"]
    if kind != first:
      ratio = seconds / found[first]
      reached = facts["times_faster"] = float(np.median(ratio))
      facts["range"] = [round(float(x), 3) for x in (ratio.min(), ratio.max())]
      goal = AGAINST_FLOAT32 if kind == "float32" else AGAINST_TORCH
    if kind == "torch":
      facts["torch"] = peer.version
    if goal is not None and costs.peak(mesh):  # elsewhere the goals mean nothing
      facts |= dict(goal=goal, met=bool(reached >= goal))
    out.append(timing.emit("gpu", f"{name} {kind}", **facts))
  return out


def main():
  given = flags.FLAGS
  if given.tiny and not given.cpu:
    raise UserError("--tiny is for --cpu: its shapes tell nothing about a GPU.")
  if given.rounds < 1 or given.steps < 1:
    raise UserError("--rounds and --steps are at least 1.")
  if given.cpu:
    os.environ["JAX_PLATFORMS"] = "cpu"
  import jax

  if not given.cpu and jax.default_backend() != "gpu":
    raise UserError(
      f"no GPU here, jax sees {jax.default_backend()!r}: pip install -r "
      "requirements-cuda.txt on a machine that has one, or --cpu --tiny to try."
    )
  if given.rounds < 5 and not given.tiny:
    raise UserError(f"--rounds={given.rounds}: fewer than 5 tell nothing.")
  how = dict(rounds=given.rounds, steps=given.steps, torch=given.torch)
  chosen = cases(given.cases, tiny=given.tiny, attention=given.attention)
  for name, case in chosen.items():
    measure(name, case, compiled=not given.tiny, **how)


if __name__ == "__main__":
  flags.DEFINE_multi_enum("cases", tuple(MFU), tuple(MFU), "What to run.")
  flags.DEFINE_integer("rounds", 5, "Alternating rounds.")
  flags.DEFINE_integer("steps", 10, "Steps a round.")
  flags.DEFINE_string("torch", None, "A Python that has torch with CUDA.")
  flags.DEFINE_enum("attention", None, ("xla", "cudnn"), "Of jax; no dropout in it.")
  flags.DEFINE_bool("cpu", False, "On the CPU.")
  flags.DEFINE_bool("tiny", False, "The smallest shapes.")
  command.main(main)
