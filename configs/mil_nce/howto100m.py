"""MIL-NCE on HowTo100M (arXiv 1912.06430): S3D-G, or I3D, and a bag of words.

Command:  python -m launch.train --config configs/mil_nce/howto100m.py --workdir DIR
          (`:variant=i3d` for the paper's other tower; `:runlocal` takes two steps of a
          tiny net on generated clips)
Data:     `python -m data_pipelines.prepare` writes data/howto100m/; the released word
          table, GoogleNews vectors of the words of dict.npy, goes in as words.npy, see
          `vlp_jax/importers/word_table.py`, and stays as it is.
Cost:     global batch 8192, 32 frames of 200 x 200, 500k steps: 64 TPU v3 for three
          days in the paper.
Paper:    YouCook2 zero-shot R@1/5/10/MedR 15.1/38.0/51.2/10, MSR-VTT 9.9/24.0/32.4/29.5
          (S3D), 11.4/30.6/42.0/16 and 9.4/22.0/30.0/35 (I3D). The published code
          differs (`:code`): 16 frames at 5 fps, 224 pixels, batch 1024 with statistics
          of BatchNorm for each of 16 GPUs, a plain stem, 300 epochs of 1,238,911
          videos, positives counted twice; and a clip lies in the 5 s or more around a
          narration that was drawn, not anywhere. Unlike either, a row is a stretch of
          32 s (--clip_s of prepare), so that a long video has several, and candidates
          end with it: else minutes of frames would be read for each 3.2 s.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="s3d", code=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 300 * 1_238_911 // 1_024 if arg.code else 500_000
  c.vocab = dict(name="words", file="data/howto100m/dict.npy")
  c.model = dict(name="mil_nce", variant=arg.variant, dtype="bfloat16")
  # 32 clips a chip of 16 GB (256 v5e): what stages compute is not kept, or it would not
  # fit. On more memory "none" is faster.
  c.model.remat = "none" if arg.code else "full"
  if arg.code:
    c.model.bn_groups = 16
    if arg.variant == "s3d":
      c.model.variant = "s3d_repo"
  positives = "twice" if arg.code else "once"
  c.tasks = dict(mil_nce=dict(objective="contrastive:mil_nce", positives=positives))
  c.input = dict(
    task="narrated_clips",
    dir="data/howto100m",
    split="train",
    rows=1_024 if arg.code else 8_192,
    num_frames=16 if arg.code else 32,
    frame_rate=5.0 if arg.code else 10.0,
    size=224 if arg.code else 200,
    flip=True,
    candidates=4 if arg.code else 5,
    max_words=20 if arg.code else 16,
  )
  if arg.code:
    c.input.update(task="sampled_clips", window="narration", text="narration")
    c.input.update(frames="even", min_time=5.0, draw=True, published=True)
  # The rates at which the paper's steps fall are not published; the code's cosine is.
  c.optim = dict(name="adam", lr=1e-3, schedule="cosine")
  c.optim.warmup = 10_000 if arg.code else 5_000
  # The released word table is frozen.
  c.optim.groups = ((r"text_tower/words$", dict(freeze=True)), (r".*", {}))
  c.init_from = dict(path="data/howto100m/words.npy", importer="word_table")
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype, c.model.remat = "mu", "float32", "none"
    c.model.video = "i3d" if arg.variant == "i3d" else "s3d"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.optim.groups, c.init_from = ((r".*", {}),), dict()
    c.model.bn_groups, c.checkpoint.every = 1, 2
    c.vocab.file = "synthetic/narrated/vocab.txt"
    c.input.update(dir="synthetic/narrated", rows=8, num_frames=8, frame_rate=4.0)
    c.input.update(size=32, flip=False)
  return c
