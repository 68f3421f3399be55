"""Spoken digits with labels: a small audio network on FSDD's own split.

Command:  python -m data_pipelines.prepare sounds --format speech --audio_hz 8000
            --source FSDD.zip --out data/fsdd
          python -m launch.train --config configs/speech/digits.py --workdir DIR
            --config.seed=0 [--config.input.dir=data/fsdd]
Data:     recordings of the free spoken digit dataset (github.com/Jakobovski, CC BY-SA
          4.0) in a zip or a folder; takes 0 to 4 of each speaker and digit are for
          testing. `prepare ... --options hold_out=theo` tests on a speaker instead.
Cost:     four minutes on one core.
Expected: statistics of a log-mel spectrogram with logistic regression reach 95.3 %.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, steps=2_000, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, arg.steps
  c.model = dict(name="classifier", variant="word", num_classes=10)
  views = dict(speed=dict(factors=(0.85, 1.2)), shift=dict(most=400))
  views.update(equalise=dict(db=3.0, band=0.15), gain={}, noise=dict(snr_db=(15, 50)))
  c.tasks = dict(digits=dict(objective="classify:softmax", top=(1,), views=views))
  c.input = dict(task="sounds", dir="data/fsdd", split="train", rows=64, seconds=1.0)
  c.evals = dict(
    digits=dict(evaluator="classify", batches=dict(split="test"), ks=(1,)),
  )
  c.optim = dict(name="adamw", lr=2e-3, warmup=0.1, schedule="cosine", clip=1.0)
  c.optim.ema = 0.995
  c.optim.groups = ((r"bias$|scale$", dict(wd=0.0)), (r".*", dict(wd=1e-3)))
  c.log_every, c.checkpoint = 50, dict(every=500, keep_last=1)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.input.update(task="narrated_clips", dir="synthetic/narrated", rows=8)
    c.input.update(fields=("audio", "label"), text="none", num_frames=4, frame_rate=4.0)
    del c.input["seconds"]
    c.tasks.digits.label = c.evals.digits.label = "label_action"
    c.model.update(front_end="mmv16k", num_classes=12)
  return c
