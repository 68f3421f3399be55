"""The HowTo100M embedding fine-tuned for retrieval on MSR-VTT (arXiv 1906.03327).

Command:  python -m launch.train --config configs/howto100m/finetune.py --workdir DIR
            --config.init_from.path=X
          (X: a workdir of pretrain.py; for the released weights through launch.convert
          `--config.model.variant=released`; `:data=youcook2` and `:data=lsmdc` for the
          other sets; `:runlocal` takes two steps of a tiny net on generated clips)
Data:     as for retrieval.py, of the training and the test split.
Cost:     256 clips a step, 50 epochs of 9,000 clips: minutes on one accelerator.
Paper:    R@1/5/10 and median rank 14.9/40.2/52.8/9 (MSR-VTT), 8.2/24.5/35.3/24
          (YouCook2), 7.1/19.6/27.9/40 (LSMDC). The published command is that of
          MSR-VTT; here the other sets have the same.
"""

import ml_collections

from configs import common
from configs.howto100m import retrieval

# Of training; only the length of the schedule depends on it.
CLIPS = dict(youcook2=9_586, msrvtt=9_000, lsmdc=101_079)
EPOCHS, ROWS = 50, 256


def get_config(arg=None):
  arg = common.parse_arg(arg, data="msrvtt", runlocal=False)
  c = ml_collections.ConfigDict()
  tested = retrieval.get_config(f"data={arg.data}" + ",runlocal" * arg.runlocal)
  c.seed, c.total_steps = 0, EPOCHS * (CLIPS[arg.data] // ROWS)
  c.vocab = dict(name="words", file="data/howto100m_features/vocab.txt")
  c.model = dict(name="howto100m", variant="paper", dtype="bfloat16")
  c.tasks = dict(ranking=dict(objective="ranking:max_margin", margin=0.1))
  # One clip of a row: there are no negatives of the same video to weigh.
  c.tasks.ranking.update(streams=("video", "text"), negative_weighting=False)
  c.input = dict(tested.input) | dict(split="train", rows=ROWS, text="caption")
  c.evals = tested.evals
  for part in (c.evals.retrieval.texts, c.evals.retrieval.videos):
    part.split = tested.input.split
  c.evals.retrieval.videos.text = "none"
  c.optim = dict(name="adam", lr=1e-4, schedule="constant")
  # GoogleNews word2vec stays as it is.
  c.optim.groups = ((r"words$", dict(freeze=True)), (r".*", {}))
  c.init_from = dict(path="runs/howto100m")
  c.log_every, c.checkpoint = 5, dict(every=100, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(variant="mu", dtype="float32", feature_dims=(48, 96))
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.init_from = dict()
    c.vocab = dict(name="words", file="synthetic/clip_features/vocab.txt")
    c.input.rows = 8
  return c
