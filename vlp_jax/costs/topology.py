"""The real TPU compile of a training step on a machine without a TPU.

Needs libtpu (requirements-tpu-aot.txt). Compiles take half a minute to two; nothing
runs, so no weights exist.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vlp_jax import hlo
from vlp_jax.costs import chips, dots
from vlp_jax.costs import job as job_lib
from vlp_jax.errors import UserError

FORM = re.compile(r"(\w+):(\d+x\d+(?:x\d+)?)")


def parse(name: str) -> tuple[str, int]:
  """("v5e", 256) of "v5e:16x16". Raises: UserError for another form or chip."""
  known = {c.topology: n for n, c in chips.CHIPS.items() if c.topology}
  found = FORM.fullmatch(name)
  if not found or found[1] not in known:
    raise UserError(
      f"--topology {name!r} is not CHIP:AxB or CHIP:AxBxC, such as v5e:16x16 or "
      f"v4:4x4x4. Chips: {', '.join(sorted(known))}."
    )
  count = 1
  for n in found[2].split("x"):
    count *= int(n)
  return known[found[1]], count


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
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return out | _too_large(job, error, limit) | look(lowered, None)
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


def _too_large(job, error, limit) -> dict[str, Any]:
  """What the compiler says when a program does not fit."""
  text = str(error)
  used = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", text)
  used = used or re.search(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds", text)
  if "RESOURCE_EXHAUSTED" not in text or not used:
    raise UserError(f"the TPU compiler stops: {text.splitlines()[0][:300]}") from error
  unit = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  total = float(used[1]) * unit[used[2]]
  return {
    "bytes_total": round(total),
    "fits": False,
    "overshoot_bytes": round(total - chips.FITS * limit),
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
