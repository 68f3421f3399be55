"""Classification or anticipation of actions with a pretrained CBT (1906.05743, 4.2).

Command:  python -m launch.train --config configs/cbt/anticipate.py \\
            --config.input.dir=DATA --config.model.num_classes=N --workdir DIR
          (`:end_to_end` trains S3D and the Transformer from frames; `:runlocal`)
Data:     features (or frames) before an action, with the action as label_action: of
          Breakfast, the 72 s before each step,
          python -m data_pipelines.prepare clips --format breakfast --source LABELS
            --videos VIDEOS --rate_hz 20 --size 224 --no_audio --out data/breakfast
          and features of 1.5 s out of these by launch.extract, as
          configs/cbt/pretrain.py tells.
Cost:     see `launch.cost`; two layers over stored features.
Paper:    anticipation on Breakfast, 50Salads and ActivityNet 200 (its table 3); none of
          these numbers is expected of generated clips.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", end_to_end=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 0, 20_000, 1
  c.vocab = dict(name="wordpiece", file="data/bert-base-uncased-vocab.txt")
  c.model = dict(name="cbt", variant=arg.variant, dtype="bfloat16", num_classes=48)
  if arg.end_to_end:
    c.model.update(video="s3d", train_video=True, window=30)
  c.tasks = dict(action=dict(objective="cbt:classify", label="label_action"))
  c.input = dict(task="video_segments", dir="data/breakfast_s3d", split="train")
  c.input.update(rows=32, unit="window", fields=("features", "label"), max_clips=48)
  if arg.end_to_end:  # 16 windows of 1.5 s at 20 Hz
    c.input = dict(task="narrated_clips", dir="data/breakfast", split="train", rows=32)
    c.input.update(text="none", fields=("video", "label"), num_frames=480)
    c.input.update(frame_rate=20.0, size=224, flip=True)
  c.optim = dict(name="adam", lr=1e-3 if arg.end_to_end else 1e-4, warmup=500)
  c.optim.groups = ((r"text_tower/|^cross/", dict(freeze=True)), (r".*", {}))
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=500, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype, c.model.feature_dim = "mu", "float32", 16
    c.model.num_classes, c.total_steps, c.optim.warmup = 12, 2, 1
    c.log_every, c.checkpoint.every = 1, 2
    c.vocab.file = "synthetic/segments/vocab.txt"
    if arg.end_to_end:
      c.model.update(window=8, feature_dim=24)
      c.input.update(dir="synthetic/narrated", rows=4, num_frames=16, frame_rate=4.0)
      c.input.update(size=32, flip=False)
    else:
      c.input.update(dir="synthetic/segments", rows=8, max_clips=8)
  return c
