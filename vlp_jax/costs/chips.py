"""Chips by name: what a second of each can compute, move and send.

Peaks are the makers' figures: dense bfloat16, one direction of all links together.
`REACH` and `HBM_REACH` are the shares of them that long kernels were measured to keep
on one H200 (790 of 989 TFLOP/s, 4.3 of 4.8 TB/s); a roofline with them is what a good
program can reach, not what a program is sure to.
"""

import dataclasses
import math
from typing import Any

from vlp_jax import resolve
from vlp_jax.errors import UserError

REACH, HBM_REACH = 0.8, 0.9
FITS = 0.9  # of the memory: the rest is for fragmentation and the runtime's own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One chip.

  Attributes:
    flops, float32_flops: peak FLOP/s of matmuls with bfloat16 and float32 inputs at
      jax's default precision (TPU: one bfloat16 pass, NVIDIA: TF32).
    hbm_bytes, hbm_bandwidth: bytes and bytes/s.
    link_bandwidth: bytes/s out of a chip to its slice or NVLink domain.
    network: bytes/s of a chip to other slices or servers (mesh axis dcn, or beyond
      `domain` chips).
    domain: chips that the fast links join; per_host: chips of one host.
    platform: as jax names it. topology: prefix of the TPU compiler's names.
    largest: sides of the largest slice, the smallest first.
    cores: devices that the TPU compiler shows for a chip.
  """

  flops: float
  float32_flops: float
  hbm_bytes: float
  hbm_bandwidth: float
  link_bandwidth: float
  network: float
  domain: int
  per_host: int
  platform: str
  topology: str | None = None
  largest: tuple[int, ...] = ()
  cores: int = 1


def _tpu(tflops, gib, tb_s, link, largest, topology, cores=1):
  return Chip(
    flops=tflops * 1e12,
    float32_flops=tflops * 1e12,
    hbm_bytes=gib * 2**30,
    hbm_bandwidth=tb_s * 1e12,
    link_bandwidth=link * 1e9,
    network=6.25e9,  # 200 Gb/s a host of four chips
    domain=math.prod(largest),
    per_host=4,
    platform="tpu",
    topology=topology,
    largest=largest,
    cores=cores,
  )


def _hopper(gb, tb_s):
  return Chip(
    flops=989e12,
    float32_flops=494e12,
    hbm_bytes=gb * 1e9,
    hbm_bandwidth=tb_s * 1e12,
    link_bandwidth=450e9,
    network=50e9,  # one 400 Gb/s port a GPU
    domain=8,
    per_host=8,
    platform="gpu",
  )


CHIPS = {
  # A laptop or a small VM, two cores with AVX2: what the tests of this project run on.
  "cpu": Chip(
    flops=0.1e12,
    float32_flops=0.1e12,
    hbm_bytes=8 * 2**30,
    hbm_bandwidth=20e9,
    link_bandwidth=1e9,
    network=1e9,
    domain=1,
    per_host=1,
    platform="cpu",
  ),
  "h100": _hopper(80, 3.35),
  "h200": _hopper(141, 4.8),
  # Links: 45 GB/s each way on v4 and v5e, 90 on v5p and v6e; six a chip in a 3-D torus
  # (v4, v5p), four in a 2-D one. Sides of the largest slice.
  "v4": _tpu(275, 32, 1.2, 6 * 45, (16, 16, 16), "v4", cores=2),
  "v5e": _tpu(197, 16, 0.82, 4 * 45, (16, 16), "v5e"),
  "v5p": _tpu(459, 95, 2.77, 6 * 90, (16, 20, 28), "v5p"),
  "v6e": _tpu(918, 32, 1.64, 4 * 90, (16, 16), "v6e"),
}


def chip(name: str) -> Chip:
  """The chip of that name. Raises: UserError with the known ones."""
  if name not in CHIPS:
    raise UserError(f"--chip {name!r} is unknown.{resolve.nearest(name, CHIPS)}")
  return CHIPS[name]


@dataclasses.dataclass(frozen=True)
class Device:
  """Stands for a device in a mesh on which nothing will ever run."""

  id: int
  platform: str = "cost"
  device_kind: str = "cost"
  process_index: int = 0
  client: Any = None


def devices(count: int) -> list[Device]:
  """That many stand-ins, for `sharding.mesh`."""
  return [Device(i) for i in range(count)]
