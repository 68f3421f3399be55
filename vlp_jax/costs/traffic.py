"""Collectives of a training step by formula, and the bytes that memory moves.

Bytes are of results on a device, as `vlp_jax.hlo.collectives` counts them.
"""

import jax

from vlp_jax.costs import families, memory, roofline
from vlp_jax.costs import job as job_lib

READS = 3  # of the weights in a step: forward, and both gradients of a matmul


def collectives(job: job_lib.Job, task: str) -> list[roofline.Collective]:
  """Gradients and gathered parameters, and what the model's family adds.

  A replicated parameter costs one all-reduce of its gradient. One split over fsdp is
  gathered forward and backward, in each microbatch; its gradient is scattered over fsdp
  and summed over the rest.
  """
  mesh, micro = job.mesh, job.settings.micro
  shards, fsdp = job.shards, mesh.shape["fsdp"]
  far, frozen, out = mesh.shape["dcn"], job.frozen(), []
  for path, x in jax.tree_util.tree_flatten_with_path(job.abstract.params)[0]:
    moving = jax.tree_util.keystr(path, simple=True, separator="/") not in frozen
    mine = memory.held(x)
    if "fsdp" in jax.tree.leaves(tuple(x.sharding.spec)):
      whole = mine * fsdp
      passes = (2 if moving else 1) * micro
      out.append(("all-gather", passes, passes * whole, fsdp, 1))
      if moving:
        out.append(("reduce-scatter", 1, mine, fsdp, 1))
        out.append(("all-reduce", 1, mine, shards // fsdp, far))
    elif moving:
      out.append(("all-reduce", 1, mine, shards, far))
  out += [(*one, shards, far) for one in _statistics(job)]
  family = families.of(job.model)
  parts = mesh.shape["model"]
  shapes = job.tasks[task].batch
  for kind, count, size, axis in family.moved(job.model, shapes, shards, parts):
    over_batch = axis == "batch"
    group = (shards, far) if over_batch else (parts, 1)
    out.append((kind, count, size, *group))
  return [roofline.Collective(*c) for c in out if c[3] > 1]


def _statistics(job: job_lib.Job) -> list[tuple[str, int, float]]:
  """Sums of batch statistics: two vectors of C a norm, forward and backward, each
  microbatch. A norm whose groups of rows lie within a shard sums nothing.
  """
  norms = jax.tree.leaves(job.abstract.mutable.get("batch_stats", {}))
  if not norms or not getattr(job.model, "bn_groups", 1) % job.shards:
    return []
  passes = 2 * job.settings.micro
  size = sum(memory.size(x) for x in norms)  # of a norm its mean and its variance
  return [("all-reduce", passes * len(norms) // 2, passes * size)]


def by_kind(found: list[roofline.Collective]) -> dict[str, dict[str, int]]:
  """{kind: {count, bytes}} of a list."""
  out = {}
  for c in found:
    one = out.setdefault(c.kind, {"count": 0, "bytes": 0})
    one["count"], one["bytes"] = one["count"] + c.count, one["bytes"] + round(c.bytes)
  return out


def moved(job: job_lib.Job, written: float, batch: float) -> float:
  """Bytes that a device reads and writes in a step.

  The optimizer reads and writes parameters and slots and reads gradients (28 bytes a
  parameter with AdamW); weights are read three times a microbatch; what the backward
  pass keeps is written and read once.
  """
  params, slots = memory.held(job.abstract.params), memory.held(job.abstract.opt_state)
  update = 2 * (params + slots) + memory.gradients(job)
  half = 0.5 if str(getattr(job.model, "dtype", "float32")) == "bfloat16" else 1.0
  weights = READS * job.settings.micro * params * half
  return update + weights + 2 * written + batch
