"""UNITER fine-tuned on NLVR2 (arXiv 1909.11740): is a statement true of two images?

Command:  python -m data_pipelines.prepare nlvr2 --source NLVR2 --out data/nlvr2 \\
            --regions nlvr2_train,nlvr2_dev,nlvr2_test --conf_th 0.2 \\
            --statements train=train.json,val=dev.json,test=test1.json \\
            --vocab_file bert-base-cased-vocab.txt
          python -m launch.train --config configs/uniter/nlvr2.py --workdir DIR
          (`:variant=large`; `:form=pair` and `:form=triplet` are the others of the
          paper; `:runlocal` takes steps of a tiny net on generated scenes)
Data:     86,373 statements for training, 6,982 of dev, 6,967 of test-P.
          weights/uniter-base.pt are pretrained weights as published.
Cost:     10,240 tokens x 8,000 steps: hours on one V100.
Paper:    dev 77.18, test-P 77.85; large 79.12 and 79.98 (paired_attn).
The text is encoded with each image (`pair`: two pooled states; `paired_attn`: attention
between all states of the two) or once with both (`triplet`). Types of the images are 1
and 2, the second row a copy of the first at the start.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", form="paired_attn", runlocal=False)
  large = arg.variant == "large"
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = (24, 5_000) if large else (77, 8_000)
  c.vocab = dict(name="wordpiece", file="data/nlvr2/vocab.txt")
  c.model = dict(name="uniter", variant=arg.variant, dtype="bfloat16")
  c.model.update(heads=(arg.form,), type_vocab=3)
  c.init_from = dict(path=f"weights/uniter-{arg.variant}.pt", importer="uniter")
  c.tasks = dict(nlvr2=dict(objective="answer:nlvr2"))
  # 10,240 x 1 GPU; large 5,120 x 2 x 2
  c.micro, tokens = (2, 20_480) if large else (1, 10_240)
  c.input = dict(task="text_regions", dir="data/nlvr2", split="train", tokens=tokens)
  c.input.pair = "joint" if arg.form == "triplet" else "apart"
  c.optim = dict(
    name="adamw",
    lr=2e-5 if large else 3e-5,
    b2=0.98,
    eps=1e-6,
    clip=2.0,
    warmup=0.1,
    groups=((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=0.01))),
  )
  test = dict(split="val", tokens=10_240)
  c.evals = dict(
    loss=dict(evaluator="loss", batches=test),
    nlvr2=dict(evaluator="nlvr2", batches=test),
  )
  c.tensorboard = True
  c.log_every, c.eval_every = 50, 500
  c.checkpoint = dict(every=500, keep_last=2, best_metric="nlvr2/accuracy")
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(variant="mu", dtype="float32")
    c.init_from = {}
    c.total_steps, c.micro, c.log_every, c.eval_every = 4, 1, 1, 0
    c.checkpoint.every = 4
    c.vocab.file = "synthetic/nlvr2/vocab.txt"
    c.input.update(dir="synthetic/nlvr2", tokens=1_024, max_rungs=1)
    for entry in c.evals.values():
      entry.batches.tokens = 1_024
  return c
