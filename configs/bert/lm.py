"""An autoregressive language model with BERT's blocks, as a start for decoders.

Command:  python -m data_pipelines.prepare text --source TEXT --out data/text
          python -m launch.train --config configs/bert/lm.py --workdir DIR
          (`:variant=small`, `:runlocal`)
Cost:     64 rows of 512 tokens, 1M steps; GPT's run of this size took a month on 8
          GPUs.
Paper:    the objective of GPT (Radford et al., 2018, eq. 1); its net, with other norms,
          reaches a perplexity of 18.4 on BooksCorpus. Ours has no published number.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 0, 1_000_000, 1
  c.vocab = dict(name="wordpiece", file="data/text/vocab.txt")
  c.model = dict(name="bert", variant=arg.variant, dtype="bfloat16")
  c.model.update(causal=True, heads=("mlm",))
  c.tasks = dict(lm=dict(objective="generate:lm"))
  c.input = dict(task="sentences", dir="data/text", split="train", rows=64)
  c.input.update(unit="plain", max_words=512)
  c.optim = dict(
    name="adamw",
    lr=2.5e-4,
    b2=0.999,
    clip=1.0,
    warmup=2_000,
    schedule="cosine",
    groups=((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=0.01))),
  )
  c.tensorboard = True
  c.log_every, c.checkpoint = 100, dict(every=2_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype = "mu", "float32"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.checkpoint.every = 2
    c.vocab.file = "synthetic/text/vocab.txt"
    c.input.update(dir="synthetic/text", rows=8, max_words=32)
  return c
