"""The recipe that MMV's three graphs share (arXiv 2006.16228)."""

import ml_collections

from configs import common


def config(arg, graph):
  """The config of one graph; `arg` as in the headers of the configs."""
  arg = common.parse_arg(arg, variant="s3d", howto=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 500_000
  c.vocab = dict(name="words", file="data/howto100m/word2vec.txt")
  c.model = dict(name="mmv", variant=arg.variant, graph=graph, dtype="bfloat16")
  # One dataset a step, in turn at random: half of all clips are of either, as in the
  # paper, though not half of each batch.
  c.tasks = dict(howto100m=dict(objective="mmv:mmv", weight=1.0))
  if arg.howto:
    c.tasks.howto100m.vt = 10.0
  else:
    c.tasks.audioset = dict(objective="mmv:mmv", weight=1.0)
    c.tasks.audioset.input = dict(dir="data/audioset", text="none")
  c.input = dict(
    task="narrated_clips",
    dir="data/howto100m",
    split="train",
    rows=2_048 if arg.variant == "tsm_resnet_x2" else 4_096,
    fields=("video", "audio"),
    num_frames=32,
    frame_rate=10.0,
    size=200,
    flip=True,
    audio_hz=48_000,
    candidates=5,
    max_words=16,
  )
  c.optim = dict(name="adam", lr=2e-3, schedule="cosine", warmup=5_000)
  # The released word table is frozen.
  c.optim.groups = ((r"text_tower/words$", dict(freeze=True)), (r".*", {}))
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype = "mu", "float32"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.optim.groups = ((r".*", {}),)
    c.checkpoint.every = 2
    c.vocab.file = "synthetic/narrated/vocab.txt"
    c.input.update(dir="synthetic/narrated", rows=8, num_frames=8, frame_rate=4.0)
    c.input.update(size=32, flip=False, audio_hz=16_000)
    if not arg.howto:
      c.tasks.audioset.input.dir = "synthetic/narrated"
  return c
