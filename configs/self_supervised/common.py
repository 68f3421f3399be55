"""What SimCLR, MoCo and BYOL share: pictures, views of them, probes, small forms."""

import ml_collections

from configs import common

PICTURES = 1_281_167  # of ImageNet's training set
STEPS = 1_000  # on generated clips
# Of generated clips: a colour is what things are told by, so it stays nearly as it is.
VIEW = dict(
  size=48,
  crop=dict(area=(0.4, 1.0)),
  flip={},
  jitter=dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02, p=0.8),
)


def config(arg, variant, *, rows, epochs):
  """The config without task and optimiser; `total_steps` counts epochs of ImageNet.

  Args:
    arg: parsed; `arg.runlocal` for two steps on generated clips.
    variant: of the model at full size; rows: of the global batch.
  """
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, epochs * PICTURES // rows
  c.model = dict(name="siamese", variant=variant, dtype="bfloat16")
  c.input = dict(
    task="narrated_clips",
    dir="data/imagenet",
    split="train",
    rows=rows,
    fields=("video",),  # a picture is a clip of one frame
    text="none",
    num_frames=1,
    size=256,  # of what the views are cut from
  )
  seen = dict(fields=("video", "label"), size=224)
  c.evals = dict(
    probe=dict(
      evaluator="linear_probe",
      train=seen | dict(split="train"),
      test=seen | dict(split="val"),
      labels=("action",),
      method="encode",
      output="image_features",
      classifier="logistic_device",
      cs=(1e-4, 1e-3, 1e-2),
    )
  )
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype = "mu", "float32"
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.input.update(dir="synthetic/narrated", rows=8, size=32)
    small = dict(size=32, split="test")
    c.evals.probe.update(labels=("shape", "colour"), classifier="logistic")
    c.evals.probe.update(cs=(0.1,), train=seen | small, test=seen | small)
  elif arg.generated:
    c.model.variant, c.model.dtype = "small", "float32"
    c.total_steps, c.log_every, c.checkpoint.every = STEPS, 20, 200
    c.input.update(dir="runs/audio_visual/shards", rows=64, size=64)
    small = seen | dict(size=64)
    c.evals.probe.update(labels=("shape", "colour"), classifier="logistic", folds=3)
    c.evals.probe.update(train=small | dict(split="train"))
    c.evals.probe.update(test=small | dict(split="test"), cs=(0.01, 0.1, 1.0))
  return c


def finish(c, arg):
  """The config with rate and views of `:generated`, and random weights if asked."""
  (task,) = c.tasks.values()
  if arg.generated:
    c.optim = dict(name="adamw", lr=1e-3, wd=1e-4, warmup=0.05, schedule="cosine")
    task.views = VIEW
  if arg.random:
    common.untrained(c)
  return c


def excluded(**keys):
  """Groups: biases and the numbers of BatchNorm with `keys`, the rest as it is."""
  return ((r"(^|/)bias$|(^|/)scale$", keys), (r".*", {}))
