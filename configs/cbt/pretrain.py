"""CBT on features of HowTo100M (arXiv 1906.05743): a contrastive video Transformer.

Command:  python -m launch.extract --config configs/mil_nce/howto100m.py \\
            --checkpoint S3D --window_s 1.5 --frame_rate 20 --out data/howto100m_s3d
          python -m launch.train --config configs/cbt/pretrain.py --workdir DIR
          (first stage: the video loss alone; `:stage=2` adds the loss between video and
          text and starts from `:start=DIR`; `:bert=FILE` fills the frozen BERT in the
          first stage; `:end_to_end` reads frames; `:runlocal`)
Data:     windows of 48 features of 1.5 s (72 s) with the words said in them. From
          frames, six windows in a row of prepared clips, and in the second stage one of
          their captions.
Cost:     batch 128, 2M steps; see `launch.cost`.
Paper:    COIN frame accuracy 53.9; YouCook2 captions B-4 5.12, METEOR 12.97, CIDEr
          0.64.
S3D and BERT are frozen. Weights (bert, visual, cross) are (0, 1, 0), then (0, 1, 1).
The learning rate of feature mode is not certain; 1e-4 is taken.

With `:end_to_end` S3D learns in the first stage, at 1e-3, and is held in the second. A
second stage on its features needs no frames: `launch.extract --config
configs/cbt/pretrain.py:end_to_end --checkpoint DIR --output input_features --window_s
1.5` writes them, and `:stage=2,start=DIR` leaves S3D behind. The paper starts S3D from
3DRotNet, whose weights are not published; it starts fresh here, or from a released S3D
with `:bert=FILE` and --config.init_from.video=FILE. Clips of 9 s and 112 pixels are our
choice.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  known = dict(variant="base", stage=1, start="", bert="", num_negatives=0)
  arg = common.parse_arg(arg, **known, end_to_end=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 0, 2_000_000, 1
  c.vocab = dict(name="wordpiece", file="data/bert-base-uncased-vocab.txt")
  c.model = dict(name="cbt", variant=arg.variant, dtype="bfloat16")
  if arg.end_to_end:
    c.model.update(video="s3d", train_video=arg.stage == 1, window=30)
  c.tasks = dict(
    cbt=dict(
      objective="cbt:cbt",
      visual_coef=1.0,
      cross_coef=1.0 if arg.stage == 2 else 0.0,
      bert_coef=0.0,
      num_negatives=arg.num_negatives or None,  # all texts of the batch
    )
  )
  c.input = dict(task="video_segments", dir="data/howto100m_s3d", split="train")
  c.input.update(rows=128, unit="window", fields=("features", "text"))
  c.input.update(max_clips=48, max_words=256)
  if arg.end_to_end:  # 6 windows of 1.5 s at 20 Hz
    c.input = dict(task="narrated_clips", dir="data/kinetics", split="train", rows=128)
    c.input.update(fields=("video",), num_frames=180, frame_rate=20.0, size=112)
    c.input.update(text="caption" if arg.stage == 2 else "none", flip=True)
    c.input.max_words = 256
  if arg.start:
    c.init_from = dict(path=arg.start)
    if not arg.end_to_end:  # an S3D that learned stays behind
      c.init_from.only = r"^(?!\w+/video_tower/)"
  elif arg.bert:
    c.init_from = dict(path=arg.bert, importer="cbt")
  learns = arg.end_to_end and arg.stage == 1
  c.optim = dict(name="adam", lr=1e-3 if learns else 1e-4, warmup=10_000)
  c.optim.schedule = "constant"
  held = r"text_tower/" if learns else r"(text|video)_tower/"
  c.optim.groups = ((held, dict(freeze=True)), (r".*", {}))
  c.tensorboard = True
  c.log_every, c.checkpoint = 100, dict(every=2_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype, c.model.feature_dim = "mu", "float32", 16
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.checkpoint.every = 2
    c.vocab.file = "synthetic/segments/vocab.txt"
    c.input.update(dir="synthetic/segments", rows=8, max_words=24)
    if arg.end_to_end:
      c.model.update(window=8, feature_dim=24)
      c.input.update(dir="synthetic/narrated", rows=4, num_frames=16, frame_rate=4.0)
      c.input.update(size=32, flip=False)
    else:
      c.input.max_clips = 8
  return c
