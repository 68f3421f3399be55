"""The real TPU compile of a training step on a machine without a TPU.

Needs libtpu (requirements-tpu-aot.txt). Compiles take half a minute to two; nothing
runs, so no weights exist.
"""

import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vlp_jax import hlo
from vlp_jax.costs import aot, chips, dots
from vlp_jax.costs import job as job_lib
from vlp_jax.errors import UserError

FORM = re.compile(r"(\w+):(\d+x\d+(?:x\d+)?)")


def parse(name: str) -> tuple[str, int]:
  """("v5e", 256) of "v5e:16x16".

  The compiler takes any size, also of slices that no pod has.
  Raises: UserError for another form or chip, or a slice that there is not.
  """
  known = {c.topology: n for n, c in chips.CHIPS.items() if c.topology}
  found = FORM.fullmatch(name)
  if not found or found[1] not in known:
    raise UserError(
      f"--topology {name!r} is not CHIP:AxB or CHIP:AxBxC, such as v5e:16x16 or "
      f"v4:4x4x4. Chips: {', '.join(sorted(known))}."
    )
  chip = known[found[1]]
  sides, largest = [int(n) for n in found[2].split("x")], chips.CHIPS[chip].largest
  if len(sides) != len(largest):
    raise UserError(
      f"--topology {name!r} has {len(sides)} sides; slices of {chip} have "
      f"{len(largest)}. Shapes that work: {SHAPES[chip]}."
    )
  fits = all(n <= most for n, most in zip(sorted(sides), largest, strict=True))
  if not fits or min(sides) < 1 or any(n < 2 or n % 2 for n in sides[:2]):
    raise UserError(
      f"--topology {name!r} is no slice of {chip}: the first two sides are even (a "
      f"host has 2x2 chips), and the largest is {'x'.join(map(str, largest))}. Shapes "
      f"that work: {SHAPES[chip]}."
    )
  return chip, math.prod(sides)


def devices(name: str) -> Sequence[Any]:
  """Devices of a topology, to compile for. Set TPU_SKIP_MDS_QUERY=1 before jax starts.

  Raises: UserError where libtpu is not installed or does not know the shape.
  """
  chip, _ = parse(name)
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "--topology needs the TPU compiler: pip install -r requirements-tpu-aot.txt, or "
      "leave it out for the formulas (--chip and --chips)."
    )
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f"--topology {name}: the TPU compiler refuses it ({reason}). Shapes that work: "
      f"{SHAPES[chip]}."
    ) from error


SHAPES = {
  "v4": "v4:2x2x1, v4:2x2x2, v4:2x2x4, v4:4x4x4",
  "v5e": "v5e:2x2, v5e:2x4, v5e:4x4, v5e:4x8, v5e:8x8, v5e:8x16, v5e:16x16",
  "v5p": "v5p:2x2x1, v5p:2x2x2, v5p:2x4x4, v5p:4x4x4",
  "v6e": "v6e:2x2, v6e:2x4, v6e:4x4, v6e:4x8, v6e:8x8, v6e:8x16, v6e:16x16",
}


def compile_step(
  job: job_lib.Job, task: str, chip_name: str, *, look: Callable | None = None
) -> dict[str, Any]:
  """Memory, collectives and matmuls of a task's compiled step, a device.

  Args:
    look: (lowered, compiled or None if it does not fit) -> more facts for the answer.
  Returns: task, devices, bytes_arguments, bytes_temporary, bytes_total, hbm_bytes of a
    device, fits, overshoot_bytes, collectives, dots, advice (empty when it fits).
  Raises: UserError where the compiler stops for another reason than memory.
  """
  chip = chips.chip(chip_name)
  limit = chip.hbm_bytes / chip.cores
  lowered = job.lower(task)
  out = {"task": task, "devices": job.mesh.size, "hbm_bytes": round(limit)}
  out["dots"] = dots.by_dtype(lowered.as_text())
  look = look or (lambda lowered, compiled: {})
  compiled, needed = aot.attempt(lowered)
  if compiled is None:
    return out | _too_large(job, needed, limit) | look(lowered, None)
  memory = compiled.memory_analysis()
  # The state is donated: outputs take the place of arguments.
  own = memory.argument_size_in_bytes + memory.output_size_in_bytes
  total = own - memory.alias_size_in_bytes + memory.temp_size_in_bytes
  over = max(total - chips.FITS * limit, 0)
  return out | {
    "bytes_arguments": memory.argument_size_in_bytes,
    "bytes_temporary": memory.temp_size_in_bytes,
    "bytes_total": total,
    "fits": over == 0,
    "overshoot_bytes": round(over),
    "collectives": hlo.collectives(compiled.as_text()),
    "advice": advice(job) if over else [],
    **look(lowered, compiled),
  }


def _too_large(job, needed, limit) -> dict[str, Any]:
  """The answer when a program does not fit."""
  return {
    "bytes_total": needed,
    "fits": False,
    "overshoot_bytes": round(needed - chips.FITS * limit),
    "collectives": {},
    "advice": advice(job),
  }


def advice(job: job_lib.Job) -> list[str]:
  """Settings that need less memory, the cheapest first."""
  out, mesh = [], dict(job.mesh.shape)
  rows = min(t.rows for t in job.tasks.values()) // job.shards
  micro = job.settings.micro
  batches = [getattr(t.objective, "global_batch", False) for t in job.tasks.values()]
  remat = getattr(job.model, "remat", None)
  if remat in ("none", "dots"):
    more = "dots" if remat == "none" else "full"
    out.append(f"recompute more: model.remat={more!r}")
  if rows % (2 * micro) == 0 and not any(batches):
    out.append(f"more microbatches: micro={2 * micro}")
  if mesh["fsdp"] == 1 and mesh["data"] > 1:
    parts = next((n for n in (8, 4, 2) if mesh["data"] % n == 0), mesh["data"])
    out.append(f"split the state: mesh.fsdp={parts}")
  out.append("more chips, or a smaller batch: input.rows or input.tokens")
  return out
