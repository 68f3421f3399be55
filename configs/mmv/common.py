"""The recipe that MMV's three graphs share (arXiv 2006.16228)."""

import ml_collections

from configs import common
from configs.audio_visual import common as audio_visual

CLIPS = "runs/audio_visual/shards"  # made as in configs/audio_visual/l3.py


def config(arg, graph):
  """The config of one graph; `arg` as in the headers of the configs."""
  arg = common.parse_arg(arg, variant="s3d", howto=False, modalities=3, **common.FORMS)
  if arg.modalities not in (2, 3):
    raise ValueError(f"modalities={arg.modalities!r}; give 3, or 2 without sound.")
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 500_000
  c.vocab = dict(name="words", file="data/howto100m/word2vec.txt")
  c.model = dict(name="mmv", variant=arg.variant, graph=graph, dtype="bfloat16")
  if arg.variant.startswith("tsm"):  # two thousand clips of them are 30 GB a chip else
    c.model.remat = "full"
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
    c.model.variant, c.model.dtype, c.model.remat = "mu", "float32", "none"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.optim.groups = ((r".*", {}),)
    c.checkpoint.every = 2
    c.vocab.file = "synthetic/narrated/vocab.txt"
    c.input.update(dir="synthetic/narrated", rows=8, num_frames=8, frame_rate=4.0)
    c.input.update(size=32, flip=False, audio_hz=16_000)
    if not arg.howto:
      c.tasks.audioset.input.dir = "synthetic/narrated"
  elif arg.generated:
    _small(c)
  if arg.modalities == 2:
    if "audioset" in c.tasks:
      del c.tasks["audioset"]  # without text
    c.input.fields = ("video",)
    if "probe_audio" in c.evals:
      del c.evals["probe_audio"]
  if arg.random:
    common.untrained(c)
  return c


def _small(c):
  """Small towers on 1,200 generated clips, minutes on a laptop."""
  c.vocab.file, clips = f"{CLIPS}/vocab.txt", dict(num_frames=8, frame_rate=2.5)
  c.model.variant, c.model.dtype = "small", "float32"
  c.total_steps, c.log_every, c.checkpoint.every = 500, 10, 250
  c.input.update(dir=CLIPS, rows=32, size=64, pad=8, flip=False, audio_hz=16_000)
  c.input.update(candidates=4, **clips)
  c.tasks = dict(mmv=dict(objective="mmv:mmv"))
  c.optim = dict(name="adamw", lr=2e-3, wd=1e-2, warmup=0.1, schedule="cosine")
  c.optim.clip = 5.0
  held = dict(split="test", text="none")
  texts = dict(split="test", text="caption", fields=("label",))
  c.evals = dict(retrieval=dict(evaluator="retrieval", normalise=True, texts=texts))
  c.evals.retrieval.videos = held | clips | dict(fields=("video", "label"))
  audio_visual.probes(c, clips | dict(text="none"))
