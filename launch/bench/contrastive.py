"""Memory and traffic of contrastive losses: python -m launch.bench.contrastive

Loss and gradients are compiled ahead for virtual CPU devices, and nothing is run: one
JSON line a case, each device count in a process of its own, for what jax sees is fixed
when it starts. `temp_mb` is temporary memory of a device beside arguments and results,
`dense_mb` that of the same loss with all scores in one array (`peers.dense_nce`).
`collective_mb` are bytes of results; `traffic_mb` counts a reduce-scatter by its
operand. Both are to stay below `goal_mb`, 1.05 x (2 B D + 4 B) x 4 bytes, whatever K is
(B of nt_xent counts both views). Lines "growth" compare the memory of a device with
that at the count before, where the rows of a device are the same 128.

  --devices=8,64   --losses=mil_nce,nt_xent,symmetric,ego,sigmoid
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

from absl import flags

from launch import command
from vlp_jax.errors import UserError

# Devices -> rows of the batch. Beyond one device 128 each show the growth.
ROWS = {1: 8192, 8: 1024, 64: 8192, 256: 32_768}
LOSSES = ("mil_nce", "nt_xent", "symmetric", "ego", "sigmoid")
VERBS, NOUNS = 118, 582  # of EgoClip
TRAFFIC_GOAL = 1.05


def cases(devices: int, losses: Iterable[str]) -> list[tuple[str, int, int]]:
  """(loss, B, K) of a device count. Both views of nt_xent are among the 128 rows."""
  rows, out = ROWS[devices], []
  for loss in losses:
    views = 2 if loss == "nt_xent" and devices > 1 else 1
    candidates = (5, 1) if loss == "mil_nce" else (1,)
    out += [(loss, rows // views, k) for k in candidates]
  return out


def total(loss, video, text, tags, where, seen):
  """The sum of a loss over the rows, of `objectives.nce`; as `peers.dense_nce`."""
  from vlp_jax.objectives import nce

  masks = dict(where=where, video_where=seen)
  if loss == "mil_nce":
    return nce.mil_nce(video, text, **masks).sum()
  text, masks = text[:, 0], masks | {"where": where[:, 0]}
  if loss == "nt_xent":
    return nce.nt_xent(video, text, where=masks["where"], first_where=seen).sum()
  if loss == "ego":
    return nce.ego(video, text, tags, **masks).sum()
  if loss == "sigmoid":
    return nce.sigmoid(video, text, scale=10.0, bias=-10.0, **masks).sum()
  return nce.symmetric(video, text, **masks).sum()


def compiled(fn, loss: str, batch: int, candidates: int, width: int, devices: int):
  """A loss and its gradients, for the first devices."""
  import jax
  import jax.numpy as jnp

  from vlp_jax import sharding

  mesh = sharding.mesh(None, jax.devices()[:devices])
  assert mesh.size == devices, "the process was started for fewer devices"
  rows, one = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  at = lambda *shape, kind=jnp.float32: jax.ShapeDtypeStruct(
    (batch, *shape), kind, sharding=rows
  )
  tags = at(VERBS, kind=jnp.int32), at(NOUNS, kind=jnp.int32)
  masks = at(candidates, kind=bool), at(kind=bool)
  step = jax.value_and_grad(lambda *args: fn(loss, *args), (0, 1))
  jitted = jax.jit(step, out_shardings=(one, (rows, rows)))
  with sharding.context(mesh):
    return jitted.lower(at(width), at(candidates, width), tags, *masks).compile()


def facts(loss: str, batch: int, candidates: int, width: int, devices: int) -> dict:
  """What the compiler says of one loss and its gradients on the first devices."""
  from launch.bench.peers import dense_nce
  from vlp_jax import hlo

  shape = loss, batch, candidates, width, devices
  ours, dense = (compiled(fn, *shape) for fn in (total, dense_nce.total))
  mega = lambda n: round(n / 1e6, 3)
  temporary = lambda c: mega(c.memory_analysis().temp_size_in_bytes)
  found = hlo.collectives(ours.as_text())
  size = {k: v["bytes"] for k, v in found.items()}
  scattered = size.get("reduce-scatter", 0) * (devices - 1)
  sent = batch * (2 if loss == "nt_xent" else 1)
  return {
    "bench": "contrastive",
    "case": "compiled",
    "loss": loss,
    "devices": devices,
    "batch": batch,
    "candidates": candidates,
    "width": width,
    "temp_mb": temporary(ours),
    "dense_mb": temporary(dense),
    "collective_mb": mega(sum(size.values())),
    "traffic_mb": mega(sum(size.values()) + scattered),
    "goal_mb": mega(TRAFFIC_GOAL * 4 * (2 * sent * width + 4 * sent)),
    "collectives": found,
  }


def growth(lines: Iterable[dict]) -> Iterator[dict]:
  """Memory of a device over that at the count before, for each loss and K; P3."""
  key = lambda line: (line["loss"], line["candidates"])
  several = [line for line in lines if line["devices"] > 1]
  for (loss, candidates), group in itertools.groupby(sorted(several, key=key), key):
    ordered = sorted(group, key=lambda line: line["devices"])
    for few, many in itertools.pairwise(ordered):
      yield {
        "bench": "contrastive",
        "case": "growth",
        "loss": loss,
        "candidates": candidates,
        "from": few["devices"],
        "devices": many["devices"],
        "temp_times": round(many["temp_mb"] / few["temp_mb"], 3),
        "dense_times": round(many["dense_mb"] / few["dense_mb"], 3),
        "batch_times": many["batch"] / few["batch"],
      }


def child(devices: int, losses: Iterable[str], width: int) -> list[dict]:
  """The lines of a device count, printed as they come."""
  count = f"--xla_force_host_platform_device_count={devices}"
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count}
  args = ["--here", f"--devices={devices}", f"--width={width}"]
  args += [f"--losses={','.join(losses)}"]
  lines, run = [], [sys.executable, "-m", __spec__.name, *args]
  with subprocess.Popen(run, env=env, stdout=subprocess.PIPE, text=True) as process:
    for line in process.stdout:
      print(line, end="", flush=True)
      lines.append(json.loads(line))
  if process.returncode:  # it has said why
    sys.exit(process.returncode)
  return lines


def asked(given) -> tuple[list[int], list[str]]:
  """(device counts, losses) of the flags. Raises: UserError for unknown ones."""
  for flag, values, known in (
    ("devices", given.devices, [str(n) for n in ROWS]),
    ("losses", given.losses, LOSSES),
  ):
    wrong = [x for x in values if x not in known]
    if wrong or not values:
      told = wrong[0] if wrong else ""
      raise UserError(f"--{flag}={told!r} has no case; known are {', '.join(known)}.")
  if given.width < 1:
    raise UserError(f"--width is {given.width}; it must be at least 1.")
  return [int(n) for n in given.devices], given.losses


def main():
  given = flags.FLAGS
  counts, losses = asked(given)
  if given.here:
    for case in cases(counts[0], losses):
      print(json.dumps(facts(*case, given.width, counts[0])), flush=True)
    return
  lines = [x for n in counts for x in child(n, losses, given.width)]
  for line in growth(lines):
    print(json.dumps(line))


if __name__ == "__main__":  # flags here: tests import `facts`
  flags.DEFINE_list("devices", list(map(str, ROWS)), "Device counts.")
  flags.DEFINE_list("losses", list(LOSSES), "Losses.")
  flags.DEFINE_integer("width", 512, "D of the embeddings.")
  flags.DEFINE_bool("here", False, "Compile in this process; the others set it.")
  command.main(main)
