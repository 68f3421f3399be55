"""What a run costs: python -m launch.cost --config CONFIG [--chip v5e --chips 256]

Parameters, FLOPs, bytes a device, collectives, input rate, hours, by formula; neither
data nor accelerator is needed and no weights are made. Times are a roofline's, that is
from below: 80 % of peak FLOP/s, 90 % of the memory's bandwidth, all overlapping.

  --topology v5e:16x16   the real TPU compile too; needs requirements-tpu-aot.txt.
                         Networks of convolutions take many minutes; with --effort=-1
                         a third to an eighth, and up to a fifth more memory is told
  --compile              memory of the step compiled for one CPU device of that share
  --remat_gb 12          the least recompute whose compiled temporaries fit 12 GB

Shapes come from config.input; --rows, --length and others replace or complete them. Any
value of the config can be changed: --config.micro=4.
"""

import os

# Before jax starts, for --topology: no search for the metadata of a TPU VM, which takes
# half a minute elsewhere, and no lock, for several compiles at once touch no TPU.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import json

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
flags.DEFINE_string("chip", None, "cpu, h100, h200, v4, v5e, v5p or v6e (default cpu).")
flags.DEFINE_integer("chips", None, "Number of chips (default 1).")
flags.DEFINE_string("topology", None, "Compile for this TPU slice, such as v5e:4x4.")
flags.DEFINE_float("effort", 0.0, "Of the compiler for speed, -1 to 1.", -1, 1)
flags.DEFINE_string("task", None, "Only this task of the config.")
flags.DEFINE_integer("rows", None, "Rows of the global batch.")
flags.DEFINE_integer("length", None, "Tokens of a row, text and regions together.")
flags.DEFINE_integer("words", None, "Tokens of a text.")
flags.DEFINE_integer("regions", None, "Regions of an image.")
flags.DEFINE_integer("frames", None, "Frames of a clip.")
flags.DEFINE_integer("size", None, "Height and width of frames, pixels.")
flags.DEFINE_float("useful", None, "Mean of real tokens a row, for the useful FLOPs.")
flags.DEFINE_integer("vocab_size", None, "Where the vocabulary's file is not here yet.")
flags.DEFINE_bool("compile", False, "Compile one device's share of the step on CPU.")
flags.DEFINE_float("remat_gb", None, "Choose model.remat for so many GB (1e9 bytes).")
flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


def main(changes):
  command.require("config")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  from vlp_jax import settings
  from vlp_jax.errors import UserError

  if not config.get("tasks"):
    raise UserError(
      f"--config {FLAGS.config} has no tasks: a probe for launch.eval trains nothing; "
      "give the config that its checkpoint was trained by."
    )
  if FLAGS.effort and not (FLAGS.topology or FLAGS.compile or FLAGS.remat_gb):
    raise UserError("--effort is a compiler's: give --topology (or --compile) too.")
  settings.load(config)  # unknown keys before anything heavy
  import jax

  jax.config.update("jax_platforms", "cpu")  # a TPU or GPU stays free
  jax.config.update("jax_exec_time_optimization_effort", FLAGS.effort)
  from vlp_jax.costs import inputs, report, request

  asked = request.Request(
    chip=FLAGS.chip,
    chips=FLAGS.chips,
    topology=FLAGS.topology,
    task=FLAGS.task,
    useful=FLAGS.useful,
    vocab_size=FLAGS.vocab_size,
    compile=FLAGS.compile,
    remat_gb=FLAGS.remat_gb,
    sizes={letter: FLAGS[flag].value for letter, flag in inputs.FLAGS.items()},
  )
  out = request.answer(config, asked)
  print(json.dumps(out, indent=2) if FLAGS.json else report.table(out))


if __name__ == "__main__":
  command.main(main, overrides=True)
