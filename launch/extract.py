"""Features of a data set: python -m launch.extract --config C --checkpoint DIR --out D

Runs one method of the config's model over a prepared data set and writes what it
returns under --output as feature shards (kind `clip_features`) with keys, labels and
texts. --checkpoint is a workdir, a checkpoint, or weights from launch.convert.

Videos are cut into windows of --window_s, one each --stride_s: VideoBERT's tokens come
from --window_s 1.5 --frame_rate 20 and the output video_features of an S3D, the mean
of its last stage before any classifier. The data are those of the config's `input`;
--data and --split name others. A run that was stopped goes on, with the same bytes.
"""

import os
import shutil

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "Config file, with :arg for get_config(arg).")
flags.DEFINE_string("checkpoint", None, "Workdir, checkpoint or converted weights.")
flags.DEFINE_string("out", None, "Directory of the feature shards.")
flags.DEFINE_string("data", None, "Prepared data set; default: the config's input.")
flags.DEFINE_list("split", None, "Splits of it, joined by commas; default: all.")
flags.DEFINE_string("method", "encode_video", "Of the model; '' is its __call__.")
flags.DEFINE_string("output", "video_features", "What of its results is kept, [B, D].")
flags.DEFINE_string("task", None, "Of data_pipelines; clip_windows for videos.")
flags.DEFINE_float("window_s", None, "Length of a window; default num_frames / rate.")
flags.DEFINE_float("stride_s", None, "From window to window; default window_s.")
flags.DEFINE_float("frame_rate", None, "Hz; default the config's, or the stored one.")
flags.DEFINE_integer("rows", 32, "Windows of a batch, over all devices.")
flags.DEFINE_bool("average", False, "The averaged parameters that the optimiser kept.")
flags.DEFINE_bool("override", False, "Vocabulary and tree may be other than trained.")
flags.DEFINE_bool("quiet", False, "No progress bar.")


def _settings(config):
  from vlp_jax import settings

  return settings.load(settings.with_twins(settings.plain(config)))


def _model(s, checkpoint, given):
  """(tokeniser, mesh, module, variables on the mesh, their digest).

  Args: given: the input that is read, whose tree and features must be the model's.
  """
  import optax

  from vlp_jax import (
    cluster_tree,
    evaluate,
    fitting,
    resolve,
    restore,
    sharding,
    snapshot,
  )
  from vlp_jax import settings as settings_lib
  from vlp_jax import state as state_lib

  vocab, tokeniser = settings_lib.vocabulary(s)
  trees = {"tree": cluster_tree.load(given["tree"])} if given.get("tree") else {}
  if not FLAGS.override:
    restore.same_meaning(checkpoint, snapshot.identities(vocab, None, trees))
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(s.model, inject=inject)
  fitting.tokens(model, trees)
  fitting.width(model, "input", given)
  mesh = sharding.mesh(s.mesh)
  _, abstract, shardings, _ = state_lib.init(model, lambda _: optax.identity(), mesh)
  found = restore.load_variables(checkpoint, average=FLAGS.average)
  # Teachers and queues of the training are no variables of the model.
  found = {k: v for k, v in found.items() if k in abstract.variables}
  state = evaluate.place(abstract, found, shardings)
  return tokeniser, mesh, model, state.variables, evaluate.digest(found)


def _input(s, info):
  """(input without a split, seconds of a window and of a stride; 0 without them)."""
  import inspect

  from vlp_jax import declared
  from vlp_jax.errors import UserError

  given = dict(s.input) | ({"dir": FLAGS.data} if FLAGS.data else {})
  videos = info.get("kind") == "narrated_clips"
  task = FLAGS.task or ("clip_windows" if videos else given["task"])
  define = declared.function("data_pipelines.tasks", task, "define")
  known = set(inspect.signature(define).parameters)
  out = {k: v for k, v in given.items() if k in known}
  out |= dict(task=task, dir=given["dir"], rows=FLAGS.rows)
  if task != "clip_windows":
    if FLAGS.window_s or FLAGS.stride_s or FLAGS.frame_rate:
      raise UserError(f"--window_s, --stride_s, --frame_rate: task {task!r} has none.")
    return out, 0.0, 0.0
  stored = info.get("settings", {}).get("rate_hz")
  rate = FLAGS.frame_rate or given.get("frame_rate") or stored
  if not rate:
    raise UserError(f"{given['dir']} does not say its frame rate; give --frame_rate.")
  window = FLAGS.window_s or given.get("num_frames", 30) / rate
  stride = FLAGS.stride_s or window
  frames = [round(x * rate) for x in (window, stride)]
  if min(frames) < 1 or any(
    abs(n / rate - x) > 1e-3 for n, x in zip(frames, (window, stride), strict=True)
  ):
    raise UserError(
      f"window_s={window:g}, stride_s={stride:g}: both must be whole frames at "
      f"{rate:g} Hz."
    )
  out |= dict(num_frames=frames[0], stride=frames[1], frame_rate=float(rate))
  return out, frames[0] / rate, frames[1] / rate


def _forward(model, variables, mesh):
  import numpy as np

  from vlp_jax import sharding
  from vlp_jax import state as state_lib
  from vlp_jax.errors import UserError
  from vlp_jax.evaluators import collect

  if FLAGS.method and not hasattr(model, FLAGS.method):
    raise UserError(f"--method {FLAGS.method!r}: {type(model).__module__} has none.")
  outputs = (FLAGS.output, "example_id")
  apply = state_lib.make_apply(model)
  step = collect.Forward(apply, outputs, method=FLAGS.method or None).step

  def forward(batches):
    try:
      found = [collect.fetch(step(variables, sharding.put(b, mesh))) for b in batches]
    except KeyError as error:
      raise UserError(f"--output {FLAGS.output}: {error.args[0]}") from None
    return tuple(np.concatenate([f[k] for f in found]) for k in outputs)

  return forward


def main(changes):
  command.require("config", "checkpoint", "out")
  config = command.config_of(FLAGS.config)
  command.override(config, changes)
  import jax

  from data_pipelines import batches, feature_shards, index
  from vlp_jax import distributed, resolve, workdir
  from vlp_jax.errors import UserError

  distributed.start()
  s = _settings(config)
  source = FLAGS.data or s.input.get("dir")
  if not source:
    raise UserError("--data is missing, and the config's input has no dir.")
  info = index.read_info(source)
  given, window_s, stride_s = _input(s, info)
  names = FLAGS.split or sorted(info["splits"])
  for name in names:
    if name not in info["splits"]:
      raise UserError(f"--split {name!r}.{resolve.nearest(name, info['splits'])}")
  tokeniser, mesh, model, variables, digest = _model(s, FLAGS.checkpoint, given)
  forward = _forward(model, variables, mesh)
  hosts = dict(host=jax.process_index(), num_hosts=jax.process_count())
  splits = {
    name: feature_shards.Split(
      batches.evaluation(given | {"split": name}, vocab=tokeniser, **hosts),
      forward,
      window_s=window_s,
      stride_s=stride_s,
      announce=lambda shard, i=i: workdir.from_first(i << 20 | shard),
    )
    for i, name in enumerate(names)
  }
  if jax.process_index():  # process 0 writes; the others compute what it announces
    while (code := workdir.from_first(0)) >= 0:
      splits[names[code >> 20]].compute(code & 0xFFFFF)
    return
  kept = ("name", "licence", "classes", "vocab")
  kept += ("tasks", "max_steps", "annotators", "num_classes")  # of annotated moments
  settings = {"dataset": "extract", "source": index.read_info(source)["fingerprint"]}
  settings |= {"weights_sha256": digest, "model": dict(s.model), "method": FLAGS.method}
  settings |= {"output": FLAGS.output, "rows": FLAGS.rows, "splits": list(names)}
  settings["input"] = {k: v for k, v in given.items() if k != "dir"}
  try:
    feature_shards.write(
      FLAGS.out,
      splits,
      info={k: info[k] for k in kept if k in info},
      settings=settings,
      quiet=FLAGS.quiet,
    )
  finally:
    workdir.from_first(-1)
  words = info.get("vocab", {}).get("file")
  if words:  # the texts come along, so does what they are read with
    shutil.copyfile(os.path.join(source, words), os.path.join(FLAGS.out, words))


if __name__ == "__main__":
  command.main(main, overrides=True)
