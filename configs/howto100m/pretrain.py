"""The HowTo100M joint embedding (arXiv 1906.03327): max-margin ranking on features.

Command:  python -m launch.train --config configs/howto100m/pretrain.py --workdir DIR
          (`:runlocal` takes two steps of a tiny net on features of generated clips)
Data:     `python -m data_pipelines.prepare clip_features --format howto100m --source
          DIR --features 2D/,3D/ --rates 1.0,1.5 --out data/howto100m_features`, with
          the authors' features (ResNet-152 at 1/s, ResNeXt-101 at 1.5/s); YouCook2's
          likewise, with the same --vocab_file. GoogleNews vectors go in as words.npy,
          see `vlp_jax/importers/word_table.py`.
Cost:     32 videos x 64 clips a step, 15 epochs of 1.22M videos: days on one V100.
Paper:    zero-shot YouCook2 R@1/5/10/MedR 6.1/17.3/24.8/46, MSR-VTT 7.5/21.2/29.6/38,
          LSMDC 4.0/9.8/14.0/137; CrossTask average recall 33.6.
"""

import ml_collections

from configs import common

VIDEOS, EPOCHS, ROWS = 1_220_000, 15, 32


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="paper", runlocal=False)
  c = ml_collections.ConfigDict()
  epoch = VIDEOS // ROWS  # the last, smaller batch is dropped
  c.seed, c.total_steps = 0, EPOCHS * epoch
  c.vocab = dict(name="words", file="data/howto100m_features/vocab.txt")
  c.model = dict(name="howto100m", variant=arg.variant, dtype="bfloat16")
  c.tasks = dict(ranking=dict(objective="ranking:max_margin", margin=0.1))
  c.tasks.ranking.negative_weighting, c.tasks.ranking.hard_negative_rate = True, 0.5
  c.input = dict(task="clip_features", dir="data/howto100m_features", split="train")
  c.input.update(rows=ROWS, unit="pairs", pairs=64, min_time=5.0, max_words=20)
  zero_shot = dict(dir="data/youcook2_features", split="val", unit="clip", rows=256)
  c.evals = dict(youcook2=dict(evaluator="retrieval"))
  c.evals.youcook2.texts = dict(**zero_shot, text="caption")
  c.evals.youcook2.videos = dict(**zero_shot)
  c.optim = dict(name="adam", lr=1e-4, schedule="step", gamma=0.9)
  c.optim.boundaries = tuple(epoch * k for k in range(1, EPOCHS))
  # GoogleNews word2vec stays as it is.
  c.optim.groups = ((r"words$", dict(freeze=True)), (r".*", {}))
  c.init_from = dict(path="data/howto100m_features/words.npy", importer="word_table")
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(variant="mu", dtype="float32", feature_dims=(48, 96))
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.optim.boundaries = (1,)
    c.optim.groups = ((r".*", {}),)
    c.init_from = dict()
    c.vocab = dict(name="words", file="synthetic/clip_features/vocab.txt")
    c.input.update(dir="synthetic/clip_features", rows=8, pairs=4)
    for part in (c.evals.youcook2.texts, c.evals.youcook2.videos):
      part.update(dir="synthetic/clip_features", split="test", rows=8)
  return c
