"""Action segmentation of COIN by a linear layer on frozen features (1903.02874).

Command:  python -m launch.train --config configs/coin/linear.py --workdir DIR
          (`:variant=cbt` on the outputs of a CBT, else S3D-G's of MIL-NCE;
          `:hidden=512` puts a hidden layer between; `:runlocal` takes four steps on
          generated features)
Data:     python -m data_pipelines.prepare clip_features --format coin --source COIN
            --features FEATURES --rates 1.0 --out data/coin_s3d
          with one row a second for each video, as launch.extract writes them of windows
          of 3.2 s that begin each second; of 1.5 s windows give --rates 0.6667.
Protocol: a class for each second, background among the 779; cross entropy of seconds,
          9,030 videos for training, 2,797 for testing. The published systems' own code
          for COIN is not public: rate, steps and rows are ours.
Cost:     seconds of a linear layer; the features cost all the time.
Paper:    frame accuracy: CBT 53.9, MIL-NCE 61.0 (S3D-G), as we remember the papers.
"""

import ml_collections

from configs import common

CLASSES = 779  # 778 steps and background


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="s3d", hidden=0, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 10_000
  c.model = dict(name="clip_labels", variant=arg.variant, num_classes=CLASSES)
  c.model.hidden = arg.hidden
  c.tasks = dict(classify=dict(objective="classify:softmax"))
  data = "data/coin_cbt" if arg.variant == "cbt" else "data/coin_s3d"
  c.input = dict(task="moments", dir=data, split="train", rows=32)
  c.input.update(labels="classes", max_clips=1_024)
  seconds = dict(split="test")
  c.evals = dict(seconds=dict(evaluator="segments", batches=seconds))
  c.optim = dict(name="adam", lr=1e-3, schedule="cosine")
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(variant="mu", num_classes=10)
    c.total_steps, c.log_every, c.checkpoint.every = 4, 2, 4
    c.input.update(dir="synthetic/coin", rows=8, max_clips=64)
  return c
