"""The weights of a run in one folder: python -m launch.export --workdir DIR --out DIR

Takes the newest valid checkpoint, without the optimiser and without what only training
needs (teachers, queues), and writes variables.npz, the config, and the hashes of the
vocabulary and of trees of tokens. `launch.eval --checkpoint`, `launch.extract`,
`init_from` and `vlp_jax.infer.Model.load` read it like a checkpoint. --safetensors FILE
writes them for tools outside of JAX as well, with names such as params/encoder/kernel.
"""

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Of the run, or one of its checkpoints.")
flags.DEFINE_string("out", None, "Folder to write.")
flags.DEFINE_bool("average", False, "The averaged parameters that the optimiser kept.")
flags.DEFINE_string("safetensors", None, "A .safetensors file to write too.")


def main():
  command.require("workdir", "out")
  import jax

  from vlp_jax import batch, resolve, restore, snapshot, workdir
  from vlp_jax import settings as settings_lib

  at = restore.latest(FLAGS.workdir)
  config = workdir.read_json(at / "config.json")
  s = settings_lib.load(settings_lib.with_twins(config))
  vocab, _ = settings_lib.vocabulary(s)
  module = resolve.model(s.model, inject={"vocab": vocab, "vocab_size": vocab.size})
  own = jax.eval_shape(module.init, jax.random.key(0), batch.zeros(module.spec()))
  found = restore.load_variables(at, average=FLAGS.average)
  kept = {k: x for k, x in found.items() if k in own}
  identities = workdir.read_json(at / "vocab.json")
  restore.export(FLAGS.out, kept, config=config, identities=identities)
  named = snapshot.flat(kept)
  if FLAGS.safetensors:
    from safetensors import numpy as safetensors

    safetensors.save_file(dict(named), FLAGS.safetensors)
  size = sum(x.nbytes for x in named.values()) / 1e6
  print(f"{FLAGS.out}: {len(named)} arrays, {size:,.1f} MB, of {at}")
  left = sorted(set(found) - set(kept))
  if left:
    print(f"left out: {', '.join(left)}")


if __name__ == "__main__":
  command.main(main)
