"""Experiments on real speech: python -m launch.spoken_digits --source FSDD.zip ...

  --experiment labelled     training with labels, on the split of the data set
  --experiment unlabelled   pretraining without labels on five speakers, a linear probe
                            on the sixth, each in turn; beside it the same network with
                            random weights, and the log-mel spectrogram itself
  --experiment words        recordings and the words that name them in one space,
                            trained on five speakers, ranked for the sixth, each in turn

--source is a zip or a folder of the free spoken digit dataset
(github.com/Jakobovski/free-spoken-digit-dataset). --seed may be a list. Started again,
what is done is kept. Writes results.json and report.html to --workdir.
"""

import pathlib

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "The recordings: a zip or a folder.")
flags.DEFINE_enum("experiment", "unlabelled", ["labelled", "unlabelled", "words"], "")
flags.DEFINE_string("workdir", None, "Where the runs live.")
flags.DEFINE_list("seed", ["0"], "One seed, or several.")
flags.DEFINE_bool("transductive", False, "Pretrain on the held-out speaker too.")

SPEAKERS, TRIM_DB = 6, 35.0


def main(changes):
  from data_pipelines import vocabularies
  from data_pipelines.prepare import sounds
  from data_pipelines.readers import speech
  from launch import sweep as sweeping
  from vlp_jax import sweep

  command.require("source", "workdir")
  root, kind = pathlib.Path(FLAGS.workdir), FLAGS.experiment
  given = dict(format="speech", audio_hz=8_000)
  if kind != "labelled":  # some speakers were recorded with seconds of silence
    given.update(options="split=all", trim_db=TRIM_DB)
  data = root / "data"
  sounds.prepare(FLAGS.source, data, **given)
  vocabularies.learn("words", speech.DIGITS).save(data / "vocab.txt")
  changes = [f"--config.input.dir={data}", *changes]
  axes, over, compare = [], ["config.seed"], ""
  if kind != "labelled":
    held = ",".join(str(s) for s in range(SPEAKERS))
    axes, over = [sweep.parse(f"held={held}")], ["held", "config.seed"]
  config = {"labelled": "digits"}.get(kind, kind)
  config = f"configs/speech/{config}.py"
  if kind == "unlabelled":
    axes.insert(0, sweep.parse("system=bins,random,clusters"))
    compare = "system"
    config += ":transductive" if FLAGS.transductive else ""
  if kind == "words":
    changes.append(f"--config.vocab.file={data / 'vocab.txt'}")
  axes.append(sweep.parse(f"config.seed={','.join(FLAGS.seed)}"))
  found = sweeping.run(config, axes, str(root), changes)
  title = f"Spoken digits: {kind}"
  metric = "" if kind == "labelled" else r"probe$|recall@1$"
  told = dict(over=over, compare=compare, metric=metric, title=title)
  sweeping.show(found, axes, str(root), **told)


if __name__ == "__main__":
  command.main(main, overrides=True)
