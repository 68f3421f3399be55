"""Bytes a device: state from shapes and shardings, activations from residuals.

What the backward pass keeps is known before any compile (`costs.residuals`). Compiled
programs keep nearly the same, plus the gradients. Where most of a network is not to
learn, what its forward pass holds at once is more (`costs.liveness`).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax.costs import job as job_lib
from vlp_jax.costs import liveness, residuals

# Arrays of the backward pass itself, as large as the largest that are kept. Measured on
# compiled steps: networks of convolutions (S3D, R(2+1)D, MC3, L3-Net), and more where
# parts of them run again (S3D, for v5e); others ...
WORKING, WORKING_AGAIN, WORKING_DENSE = 5, 7, 4
WORKING_LAYER = 3  # ... and a layer of a Transformer.
# Compiled steps of all configs over what is given here: layouts of convolutions
# follow rules of the compiler's own.
TPU_CONVOLUTIONS, TPU_OTHERS = (0.65, 2.7), (0.7, 1.3)
FEW_ROWS = 8  # of a shard: channels then fill tiles, as two clips of R(2+1)D showed


def size(x: Any) -> float:
  """Bytes of an abstract array; keys of random numbers count as two words."""
  wide = 8 if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x.dtype.itemsize
  return float(math.prod(x.shape) * wide)


def tiled(x: Any) -> float:
  """Bytes on a TPU, whose last two axes come in tiles: 128 by 32 bytes, at least 8.

  Heads 64 wide or 162 tokens therefore take up to twice their size.
  """
  if not x.shape:
    return size(x)
  wide = size(x) / max(math.prod(x.shape), 1)
  *lead, rows, lanes = (1, *x.shape)
  tile = max(8, round(32 / wide)) if len(x.shape) > 1 else 1
  up = lambda n, k: -(-n // k) * k
  return math.prod(lead) * up(rows, tile) * up(lanes, 128) * wide


def held(tree: Any) -> float:
  """Bytes that one device holds of abstract arrays with shardings."""
  part = lambda x: jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype)
  return sum(size(part(x)) for x in jax.tree.leaves(tree))


def gradients(job: job_lib.Job) -> float:
  """Bytes of the gradients of a step on a device, frozen parameters left out.

  With microbatches each shard keeps a whole sum of its own to the end of the step,
  whatever fsdp does to the parameters.
  """
  frozen, total = job.frozen(), 0.0
  for path, x in jax.tree_util.tree_flatten_with_path(job.abstract.params)[0]:
    if jax.tree_util.keystr(path, simple=True, separator="/") not in frozen:
      parts = job.mesh.shape["fsdp"] if job.settings.micro > 1 else 1
      over = "fsdp" in jax.tree.leaves(tuple(x.sharding.spec))
      total += held(x) * (parts if over else 1)
  return total


def activations(
  job: job_lib.Job, task: str, *, platform: str = "tpu"
) -> tuple[float, float]:
  """(bytes at the peak, bytes written for the backward pass), of a device and step.

  The peak is what is kept, and beside it arrays of the backward pass itself:
  `WORKING_LAYER` as large as a layer's largest, or one as large as the largest outside
  of layers; of convolutions or without layers the `WORKING` largest once more, as
  gradients and copies in other layouts. With `remat` it may lie within a stack of
  scanned layers, where all that a layer needs is there again once. Networks of
  convolutions may hold most in the forward pass, where parts are not to learn. Weights
  in the type of the computation are kept whole, whatever the batch; with microbatches
  twice, in and out of their loop, and one microbatch's gradients beside the sum.

  Args:
    platform: "tpu" lays arrays out in tiles, but for convolutions of many rows in such
      an order of axes that little is lost.
  """
  depths, share, convolves = _depths(job.model), 1 / job.shards, _convolves(job)
  few = job.tasks[task].rows / job.shards < FEW_ROWS
  of = tiled if platform == "tpu" and (few or not convolves) else size
  given = dict(platform=platform, fused=convolves or not depths)
  params = {x.shape: x for x in jax.tree.leaves(job.abstract.params) if x.ndim > 1}

  def split(model):
    """({depth: bytes kept of layers, 0: of all else}, of weights, program, kept)."""
    weights, found = 0.0, {0: [], **{n: [] for n in depths}}
    program = residuals.program(job, task, model=model)
    kept = residuals.distinct(program, **given)
    for x in (v.aval for v in kept):
      if x.shape in params:
        weights += size(x) * held(params[x.shape]) / size(params[x.shape])
        continue
      depth = x.shape[0] if x.shape[:1] and x.shape[0] in depths else 0
      found[depth].append(of(x) * share)
    return found, weights, (program, kept)

  kept, weights, (program, stays) = split(job.model)
  forward = 0.0
  if convolves:  # a loop over layers holds no more forwards than backwards
    forward = liveness.peak(program, stays, platform=platform, of=of) * share
  whole = kept  # of a layer or block, when its turn comes in the backward pass
  again = getattr(job.model, "remat", "none") != "none"
  if again:
    whole, _, _ = split(job.model.clone(remat="none"))
  written = sum(map(sum, kept.values()))
  layers = any(kept[n] for n in depths)
  first = sorted((whole if convolves else kept)[0], reverse=True)
  count = 1 if layers else WORKING_DENSE
  if convolves:
    count = WORKING_AGAIN if again and not layers else WORKING
  peak, largest = written, sum(first[:count])
  for n in depths:
    if kept[n]:
      peak = max(peak, written + (sum(whole[n]) - sum(kept[n])) / n)
      largest = max(largest, WORKING_LAYER * max(whole[n]) / n)
  peak = max(peak + largest, forward) / job.settings.micro + weights
  if job.settings.micro > 1:  # a microbatch's gradients, and weights of the loop's own
    peak += gradients(job) + weights
  return peak, written


def notes(job: job_lib.Job, platform: str) -> list[str]:
  """How far `activations` may be off, measured by `launch.bench.tpu` on all configs."""
  if platform != "tpu":
    return []
  low, high = TPU_CONVOLUTIONS if _convolves(job) else TPU_OTHERS
  told = f"compiled for TPU such steps took {low} to {high} times the memory given here"
  return [f"{told}; --topology compiles this one"]


def _convolves(job) -> bool:
  """Whether the model has convolutions: their kernels go by that name."""
  paths = jax.tree_util.tree_flatten_with_path(job.abstract.params)[0]
  return any("conv" in jax.tree_util.keystr(path) for path, _ in paths)


def _depths(model: Any) -> set[int]:
  """Lengths of a model's stacks of scanned layers."""
  names = ("depth", "encoder_depth", "text_depth", "cross_depth")
  return {n for n in (getattr(model, name, 0) for name in names) if n}
