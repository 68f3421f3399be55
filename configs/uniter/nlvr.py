"""UNITER pretrained on NLVR: real sentences of four folds and generated statements.

Command:  python -m data_pipelines.prepare nlvr --source NLVR --out data/nlvr \\
            --num_statements 50000 --region_dim 256
          python -m launch.train --config configs/uniter/nlvr.py --workdir runs/nlvr
          (`:runlocal` takes a few steps of a tiny net on generated scenes)
Expected: see the README: MLM above the unigram baseline and ITM above 60 % on held-out
          sentence texts and scenes. ITM positives are rows true by programme, negatives
          rows false by programme, so a text alone tells nothing.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 42, 4_000, 1
  c.vocab = dict(name="wordpiece", file="data/nlvr/vocab.txt")
  c.model = dict(
    name="uniter",
    variant="mu",  # 64 wide, two layers: what a CPU trains in minutes
    num_heads=4,
    region_dim=256,
    region_classes=28,
    max_positions=64,
    dropout=0.0,
  )
  # At BERT's N(0, 0.02) so narrow a net does not leave chance; these are 1/sqrt(64).
  c.init_scale = ((r"kernel$", 6.0),)
  probs = dict(fields=("regions_probs",))
  # Words are masked where the statement is true of the scene: else they are noise.
  true = dict(where=dict(match=1))
  given = dict(negatives="given", wra_coef=0.0)
  # Matching leaves chance within a thousand steps alone, and later or never in company.
  others = dict(rate=0.15, start=1_500, input=true)
  c.tasks = dict(
    itm=dict(objective="match:itm", weight=16) | given,
    mlm=dict(objective="masked:mlm", weight=4) | others,
    mrfr=dict(objective="masked:mrfr", weight=0.5) | others,
    mrc_kl=dict(objective="masked:mrc_kl", weight=0.5) | others,
  )
  c.tasks.mrc_kl.input = true | probs
  c.input = dict(task="text_regions", dir="data/nlvr", split="train", rows=128)
  # At 1e-3 matching, which no text or picture alone helps, may never leave chance.
  c.optim = dict(
    name="adamw", lr=4e-4, b2=0.98, eps=1e-8, clip=1.0, warmup=200, schedule="constant"
  )
  c.optim.groups = ((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=0.01)))
  c.tensorboard = True
  c.log_every, c.eval_every = 50, 1_000
  c.checkpoint = dict(every=1_000, keep_last=2)
  test = dict(split="test", rows=64)
  c.evals = dict(
    itm=dict(evaluator="loss", tasks=("itm",), batches=test),
    mlm=dict(
      evaluator="loss", tasks=("mlm",), batches=test | dict(where=dict(match=1))
    ),
    unigram=dict(
      evaluator="unigram",
      train=dict(rows=64),
      test=test | dict(where=dict(match=1)),
    ),
  )
  if arg.runlocal:
    c.model.region_dim = 16
    c.total_steps, c.optim.warmup, c.log_every = 4, 1, 1
    for name in ("mlm", "mrfr", "mrc_kl"):
      c.tasks[name].start = 0
    c.eval_every, c.checkpoint.every = 0, 4
    c.vocab.file = "synthetic/scenes/vocab.txt"
    c.input.update(dir="synthetic/scenes", rows=16)
  return c
