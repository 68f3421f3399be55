"""Spoken digits without labels: a small network judged on a speaker it never heard.

Command:  python -m launch.spoken_digits --experiment unlabelled --source FSDD.zip
            --workdir DIR --seed 0
          which leaves out each of the six speakers in turn; one of them is
          python -m launch.train --config configs/speech/unlabelled.py:held=2
            --workdir DIR [--config.input.dir=data/fsdd]
          `:system=random` probes the same network with random weights (its batch
          statistics are those of the training data), `system=bins` the log-mel
          spectrogram in eight bins of time; `transductive=True` pretrains on the
          held-out speaker's recordings too, which is another task.
Data:     recordings of the free spoken digit dataset (CC BY-SA 4.0), 8 kHz, all in one
          split, without the silence around them: `prepare sounds --format speech
          --audio_hz 8000 --trim_db 35 --options split=all`.
Recipe:   SimCLR on recordings of one speaker a batch, so that negatives do not differ
          by voice; then deep clustering, with features standardised within each
          training speaker. Speaker numbers are used in both, digit labels in neither.
Probe:    logistic regression on features of whole recordings as they are; C by leaving
          out one of the five training speakers after the other.
Expected: see the README; the spectrogram alone is the baseline of the command.
"""

import ml_collections

from configs import common

SPEAKERS = range(6)  # george, jackson, lucas, nicolas, theo, yweweler
RECORDINGS = 1_500
VIEWS = dict(
  speed=dict(factors=(0.78, 1.28)),
  shift=dict(most=400),
  equalise=dict(db=3.5, band=0.2),
  gain={},
  noise=dict(snr_db=(20, 50)),
)
TOWER = dict(depths=(1,), widths=(64,), stem_width=24, pool="parts", neck=192)


# Tiny, for generated "speech" (`synthetic/spoken`).
TINY = dict(
  depths=(1,), widths=(16,), stem_width=4, pool="parts", parts=2, bands=2, neck=8
)


def on_generated_sounds(c):
  """The config for four steps of a tiny network."""
  c.input.update(dir="synthetic/spoken", rows=16)
  c.total_steps, c.log_every, c.optim.warmup, c.checkpoint.every = 4, 1, 1, 2
  c.model.tower_args = TINY


def get_config(arg=None):
  known = dict(held=0, system="clusters", transductive=False, runlocal=False)
  arg = common.parse_arg(arg, simclr=300, steps=1_200, clusters=32, **known)
  if arg.system not in ("clusters", "random", "bins"):
    raise ValueError(f"system is {arg.system!r}; give clusters, random or bins.")
  if arg.runlocal:
    arg.simclr, arg.clusters = 2, 8
  seen = [s for s in SPEAKERS if s != arg.held]
  heard = list(SPEAKERS) if arg.transductive else seen
  one_by_one = {str(s): dict(rate=1.0, where=dict(speaker=s)) for s in heard}
  all_of = lambda speakers: dict(mixture=None, where=dict(speaker=speakers))

  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, arg.steps
  c.model = dict(name="siamese", variant="word", clusters=arg.clusters)
  c.model.update(normalise="example", tower_args=TOWER)
  c.input = dict(task="sounds", dir="data/fsdd", split="all", rows=64, seconds=1.0)
  c.input.mixture = one_by_one
  views = dict(views=VIEWS, stream="audio")
  c.tasks = dict(simclr=dict(objective="simclr:simclr", sides="mean", **views))
  c.optim = dict(name="adamw", lr=2e-3, wd=1e-4, warmup=100, schedule="cosine")
  c.log_every, c.checkpoint = 50, dict(every=150, keep_last=1)
  c.evals = dict(digits=dict(evaluator="linear_probe", labels=("label",)))
  c.evals.digits.update(train=all_of(seen), test=all_of(arg.held))
  c.evals.digits.update(output="audio_features", method="encode", max_iter=300)
  c.evals.digits.update(choose_by="speaker", cs=(1e-4, 1e-3, 1e-2, 1e-1))
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    on_generated_sounds(c)
  if arg.system == "clusters":
    c.tasks.simclr.stop = arg.simclr
    c.tasks.cluster = dict(objective="cluster:sdc", towers=("audio",), **views)
    c.tasks.cluster.update(start=arg.simclr, input=all_of(heard))
    c.rounds = dict(clusters=dict(fn="cluster:xdc_round", first=arg.simclr))
    c.rounds.clusters.update(every=c.checkpoint.every, input=all_of(heard))
    c.rounds.clusters.update(labels=("audio",), clusters=arg.clusters, whiten=24)
    c.rounds.clusters.update(num_examples=RECORDINGS, within="label_speaker")
    c.rounds.clusters.outputs = ("audio_features", "example_id", "label_speaker")
    return c
  common.untrained(c, min(c.total_steps, 50))
  if arg.system == "bins":
    c.model.tower, c.model.tower_args = "spectrogram", ml_collections.ConfigDict()
    c.total_steps, c.log_every, c.checkpoint.every = 1, 1, 1
  return c
