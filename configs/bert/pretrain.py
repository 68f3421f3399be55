"""BERT on plain text (arXiv 1810.04805): masked words and next sentences.

Command:  python -m data_pipelines.prepare text --source TEXT --out data/text
          python -m launch.train --config configs/bert/pretrain.py --workdir DIR
          (`:variant=large`; `:long` for the last tenth at 512 tokens; `:runlocal` takes
          two steps of a tiny net on generated text)
Cost:     256 rows of 128 tokens, 900k steps, then 512 tokens for 100k: 16 TPU chips
          for four days in the paper (base).
Paper:    GLUE average 79.6 (base), 82.1 (large) after fine-tuning.
The published word-piece file goes in with `--vocab_file`; weights of the BERT family
are read by `launch.convert --from bert` and by `init_from=dict(importer="bert")`.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", long=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 0, 100_000 if arg.long else 900_000, 1
  c.vocab = dict(name="wordpiece", file="data/text/vocab.txt")
  c.model = dict(name="bert", variant=arg.variant, dtype="bfloat16")
  masked = 77 if arg.long else 20
  c.tasks = dict(bert=dict(objective="text:bert", rate=0.15, max_masked=masked))
  c.input = dict(task="sentences", dir="data/text", split="train", rows=256)
  c.input.max_words = 512 if arg.long else 128
  c.optim = dict(
    name="adamw",
    lr=1e-4,
    b2=0.999,
    eps=1e-6,
    clip=1.0,
    warmup=10_000,
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
