"""Published weights to ours: python -m launch.convert --from FAMILY --input F --out DIR

--config names the model that the weights are for (its `model` entry and vocabulary);
the result is read by `init_from=dict(path=DIR)` and by launch.eval --checkpoint DIR.
Files are opened by a reader that executes nothing of theirs.
"""

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("from", None, "A file of vlp_jax/importers, as uniter or s3d.")
flags.DEFINE_string("input", None, "The published file: .pth, .safetensors, .npz, ...")
flags.DEFINE_string("out", None, "Folder to write.")
flags.DEFINE_string("config", None, "Config whose model the weights are for.")


def main(changes):
  command.require("from", "input", "out", "config")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  from vlp_jax import resolve, restore
  from vlp_jax import settings as settings_lib
  from vlp_jax.formats import read

  s = settings_lib.load(settings_lib.with_twins(settings_lib.plain(config)))
  vocab, _ = settings_lib.vocabulary(s)
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(s.model, inject=inject)
  family = resolve.module("vlp_jax.importers", FLAGS["from"].value)
  variables, report = family.convert(read.read(FLAGS.input), model)
  restore.export(FLAGS.out, variables, config=settings_lib.plain(config))
  for field in report._fields:
    names = getattr(report, field)
    print(f"{field}: {len(names)} {', '.join(names[:5])}{' ...' * (len(names) > 5)}")


if __name__ == "__main__":
  command.main(main, overrides=True)
