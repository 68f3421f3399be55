"""Memory and traffic of contrastive losses: python -m launch.bench.contrastive

Loss and gradients are compiled ahead for virtual CPU devices, and nothing is run: one
JSON line a case, each device count in a process of its own. `temp_mb` is temporary
memory of a device beside arguments and results. `collective_mb` are bytes of results;
`traffic_mb` counts a reduce-scatter by its operand. Both are to stay below `goal_mb`,
1.05 x (2 B D + 4 B) x 4 bytes, whatever K is (B of nt_xent counts both views).
"""

import json
import os
import subprocess
import sys

from absl import flags

from launch import command

FLAGS = flags.FLAGS
# devices -> (loss, B, K). B = 128 a device shows the growth from 8 to 256.
CASES = {
  1: [("mil_nce", 8192, 5), ("mil_nce", 8192, 1), ("nt_xent", 8192, 1)]
  + [(name, 8192, 1) for name in ("symmetric", "ego", "sigmoid")],
  8: [("mil_nce", 1024, 5)],
  64: [("mil_nce", 8192, 5), ("mil_nce", 8192, 1), ("nt_xent", 4096, 1)]
  + [(name, 8192, 1) for name in ("symmetric", "ego", "sigmoid")],
  256: [("mil_nce", 32_768, 5)],
}
VERBS, NOUNS = 118, 582  # of EgoClip


def facts(loss: str, batch: int, candidates: int, width: int, devices: int) -> dict:
  """What the compiler says of one loss and its gradients on the first devices."""
  import jax
  import jax.numpy as jnp

  from vlp_jax import hlo, sharding
  from vlp_jax.objectives import nce

  def total(video, text, where, seen, tags):
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

  mesh = sharding.mesh(None, jax.devices()[:devices])
  rows, one = sharding.batch_sharding(mesh), sharding.replicated(mesh)
  at = lambda *shape, kind=jnp.float32: jax.ShapeDtypeStruct(
    (batch, *shape), kind, sharding=rows
  )
  args = at(width), at(candidates, width), at(candidates, kind=bool), at(kind=bool)
  tags = at(VERBS, kind=jnp.int32), at(NOUNS, kind=jnp.int32)
  grad = jax.value_and_grad(total, (0, 1))
  jitted = jax.jit(grad, out_shardings=(one, (rows, rows)))
  with sharding.context(mesh):
    compiled = jitted.lower(*args, tags).compile()
  found = hlo.collectives(compiled.as_text())
  size = {k: v["bytes"] for k, v in found.items()}
  scattered = size.get("reduce-scatter", 0) * (devices - 1)
  sent = batch * (2 if loss == "nt_xent" else 1)
  mega = lambda n: round(n / 1e6, 3)
  return {
    "bench": "contrastive",
    "loss": loss,
    "devices": devices,
    "batch": batch,
    "candidates": candidates,
    "width": width,
    "temp_mb": mega(compiled.memory_analysis().temp_size_in_bytes),
    "collective_mb": mega(sum(size.values())),
    "traffic_mb": mega(sum(size.values()) + scattered),
    "goal_mb": mega(1.05 * 4 * (2 * sent * width + 4 * sent)),
    "collectives": found,
  }


def main():
  if FLAGS.devices:
    for case in CASES[FLAGS.devices]:
      print(json.dumps(facts(*case, FLAGS.width, FLAGS.devices)), flush=True)
    return
  for devices in CASES:
    count = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count}
    args = [f"--devices={devices}", f"--width={FLAGS.width}"]
    subprocess.run([sys.executable, "-m", __spec__.name, *args], env=env, check=True)


if __name__ == "__main__":  # flags here: tests import `facts`
  flags.DEFINE_integer("devices", 0, "Compile the cases of one device count, here.")
  flags.DEFINE_integer("width", 512, "D of the embeddings.")
  command.main(main)
