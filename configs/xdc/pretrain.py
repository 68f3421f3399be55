"""XDC, and SDC, MDC, CDC, on videos with sound (arXiv 1911.12667).

Command:  python -m launch.train --config configs/xdc/pretrain.py --workdir DIR
          (`:system=sdc`, `mdc` or `cdc` for the other systems; `:runlocal` takes two
          steps of tiny towers on generated clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     `python -m data_pipelines.prepare clips` writes data/kinetics400/; the audio
          encoder reads sound at 16 kHz. `rounds.clusters.num_examples` is the size of
          the split, as `data_pipelines.inspect` tells it.
Cost:     R(2+1)D-18 on 32 frames of 224 x 224, ResNet-18 on 1 s of log-mel, batch 512;
          each round embeds and clusters the whole training set.
Paper:    UCF101 / HMDB51 fine-tuned 86.8 / 52.6 (Kinetics), 93.0 / 63.7 (AudioSet),
          95.5 / 68.9 (IG-Kinetics); ESC-50 84.8, DCASE 95 (AudioSet).
From memory, so to be set by who knows better: clip length, batch, rates, the steps
between rounds, and that features are whitened to 256 dimensions as in DeepCluster.
"""

import ml_collections

from configs import common
from configs.audio_visual import common as audio_visual

HEADS = {
  "sdc": ("video_by_video", "audio_by_audio"),
  "mdc": ("video_by_video", "audio_by_audio", "video_by_audio", "audio_by_video"),
  "cdc": ("video_by_joint", "audio_by_joint"),
  "xdc": ("video_by_audio", "audio_by_video"),
}


def get_config(arg=None):
  arg = common.parse_arg(arg, system="xdc", **common.FORMS)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 300_000
  c.model = dict(name="xdc", variant="r2plus1d", clusters=128, dtype="bfloat16")
  c.model.heads, c.model.remat = HEADS[arg.system], "full"
  c.tasks = dict(cluster=dict(objective=f"cluster:{arg.system}", weight=1.0))
  c.input = dict(
    task="narrated_clips",
    dir="data/kinetics400",
    split="train",
    rows=512,
    fields=("video", "audio"),
    text="none",
    num_frames=32,
    frame_rate=30.0,
    size=224,
    flip=True,
    audio_hz=16_000,
  )
  labels = ("joint",) if arg.system == "cdc" else ("video", "audio")
  c.rounds = dict(clusters=dict(fn="cluster:xdc_round", every=20_000))
  c.rounds.clusters.update(
    num_examples=240_000, clusters=128, labels=labels, whiten=256
  )
  c.rounds.clusters.outputs = ("video_features", "audio_features", "example_id")
  c.rounds.clusters.input = dict(flip=False)
  c.optim = dict(name="sgd", lr=0.08, momentum=0.9, schedule="cosine", warmup=5_000)
  c.optim.wd = 1e-4
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype, c.model.clusters = "mu", "float32", 4
    c.model.remat = "none"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.checkpoint.every = 2
    c.input.update(dir="synthetic/narrated", rows=8, num_frames=8, frame_rate=4.0)
    c.input.update(size=32, flip=False)
    c.rounds.clusters.update(every=2, num_examples=64, clusters=4, whiten=8)
  elif arg.generated:
    _small(c)
  if arg.random:
    common.untrained(c)
  return c


def _small(c):
  """Small towers on 1,200 generated clips, minutes on a laptop."""
  c.model.update(variant="small", dtype="float32", clusters=32, remat="none")
  c.total_steps, c.log_every, c.checkpoint.every = 900, 10, 150
  c.input.update(dir="runs/audio_visual/shards", rows=32, num_frames=8, frame_rate=4.0)
  c.input.update(size=64, pad=4, flip=False)
  c.rounds.clusters.update(every=150, num_examples=1_200, clusters=32, whiten=32)
  c.optim = dict(name="adamw", lr=1e-3, wd=1e-4, warmup=0.05, schedule="cosine")
  audio_visual.probes(c, dict(num_frames=8, frame_rate=4.0))
