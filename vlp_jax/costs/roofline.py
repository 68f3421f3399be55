"""Time of a step from below: the slowest of arithmetic, memory and links.

    step_s = max(FLOPs / peak, bytes / bandwidth, sum of collectives)

per device, everything overlapping perfectly. Collectives of S bytes over n devices on a
ring: an all-reduce 2 S (n - 1) / n, an all-gather (S gathered) S (n - 1) / n, a
reduce-scatter (S kept) S (n - 1).
"""

from collections.abc import Iterable
from typing import NamedTuple

from vlp_jax.costs import chips


class Collective(NamedTuple):
  """`count` operations of a step, `bytes` of all their results on a device.

  `group` devices take part; `far` of them have the network between them (slices, or
  servers beyond a domain of fast links).
  """

  kind: str
  count: int
  bytes: float
  group: int
  far: int = 1


class Bound(NamedTuple):
  """Seconds by resource, their maximum, and the name of what is slowest."""

  compute_s: float
  memory_s: float
  collective_s: float
  step_s: float
  bound_by: str


def ring_s(one: Collective, bandwidth: float, group: int) -> float:
  """Seconds of a collective on a ring of `group` devices."""
  if group <= 1:
    return 0.0
  share = (group - 1) / group
  factor = {"all-reduce": 2 * share, "reduce-scatter": group - 1}
  return one.bytes * factor.get(one.kind, share) / bandwidth


def collective_s(one: Collective, chip: chips.Chip) -> float:
  """Inside a domain over the links, between domains over the network."""
  near = max(min(one.group // one.far, chip.domain), 1)
  far = -(-one.group // near)
  # Between domains only the part that a device holds of its domain's sum travels.
  part = one._replace(bytes=one.bytes / (near if one.kind == "all-reduce" else 1))
  return ring_s(one, chip.link_bandwidth, near) + ring_s(part, chip.network, far)


def bound(
  chip: chips.Chip,
  *,
  flops: float,
  traffic: float,
  collectives: Iterable[Collective] = (),
  dtype: str = "bfloat16",
) -> Bound:
  """The bound of one device.

  Args:
    flops, traffic: of a device and step; bytes read and written.
    dtype: of the matmuls' inputs.
  """
  peak = chip.float32_flops if dtype == "float32" else chip.flops
  parts = {
    "compute": flops / (peak * chips.REACH),
    "memory": traffic / (chip.hbm_bandwidth * chips.HBM_REACH),
    "collectives": sum(collective_s(c, chip) for c in collectives),
  }
  slowest = max(parts, key=parts.get)
  return Bound(*parts.values(), parts[slowest], slowest)
