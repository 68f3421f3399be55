"""UNITER fine-tuned on VQA v2 (arXiv 1909.11740): soft scores of 3,129 answers.

Command:  python -m data_pipelines.prepare vqa --source VQA --out data/vqa \\
            --regions_format uniter_lmdb --regions coco_train2014,coco_val2014,vg \\
            --conf_th 0.2 --questions train=QUESTIONS.json,val=DEVVAL.json \\
            --answers_file ANSWERS.json --vocab_file bert-base-cased-vocab.txt
          python -m launch.train --config configs/uniter/vqa.py --workdir DIR
          (`:variant=large`; `:runlocal` takes steps of a tiny net on generated scenes)
Data:     train and val without devval, and Visual Genome's questions; devval is held
          out. weights/uniter-base.pt are pretrained weights as published; a run of
          configs/uniter/pretrain.py is taken with --config.init_from.path=RUN
          --config.init_from.importer=None --config.init_from.only="embed|encoder|pool".
Cost:     102,400 tokens x 6,000 steps: hours on 4 V100.
Paper:    test-dev 72.70, test-std 72.91; large 73.82 and 74.02.
The loss is the binary cross entropy summed over the answers. The published sampler
cuts all batches of a bucket by its longest example and so fills less than half of its
tokens: a step here has about twice the questions.
tasks.vqa.method="pooled", and evals.vqa.method, run the last layer for the first token
alone: the same logits, and a sixteenth less arithmetic for two copies of the stacked
parameters. By the roofline that pays from some 5,000 tokens a chip (v5e) on.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", runlocal=False)
  large = arg.variant == "large"
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 42, 5_000 if large else 6_000
  c.vocab = dict(name="wordpiece", file="data/vqa/vocab.txt")
  c.model = dict(name="uniter", variant=arg.variant, dtype="bfloat16")
  c.model.update(heads=("vqa",), num_answers=3_129)
  c.init_from = dict(path=f"weights/uniter-{arg.variant}.pt", importer="uniter")
  c.init_from.only = ""
  c.tasks = dict(vqa=dict(objective="answer:vqa"))
  # 5,120 x 4 GPUs x 5 accumulated; large 3,072 x 8 x 4
  c.micro, tokens = (4, 98_304) if large else (5, 102_400)
  c.input = dict(task="text_regions", dir="data/vqa", split="train", tokens=tokens)
  c.optim = dict(
    name="adamw",
    lr=5e-5 if large else 8e-5,
    b2=0.98,
    eps=1e-6,
    clip=2.0,
    warmup=0.1,
    # The new head learns ten times as fast.
    groups=(
      (r"^head_vqa/.*(bias$|norm|scale$)", dict(wd=0.0, lr_scale=10.0)),
      (r"^head_vqa/", dict(wd=0.01, lr_scale=10.0)),
      (r"bias$|norm|scale$", dict(wd=0.0)),
      (r".*", dict(wd=0.01)),
    ),
  )
  test = dict(split="val", tokens=12_288)
  c.evals = dict(
    loss=dict(evaluator="loss", batches=test),
    vqa=dict(evaluator="vqa", batches=test),
  )
  c.tensorboard = True
  c.log_every, c.eval_every = 50, 500
  c.checkpoint = dict(every=500, keep_last=2, best_metric="vqa/accuracy")
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(variant="mu", dtype="float32", num_answers=15)
    c.init_from = {}
    c.total_steps, c.micro, c.log_every, c.eval_every = 4, 1, 1, 0
    c.checkpoint.every = 4
    c.vocab.file = "synthetic/vqa/vocab.txt"
    c.input.update(dir="synthetic/vqa", tokens=768, max_rungs=1)
    for entry in c.evals.values():
      entry.batches.tokens = 768
  return c
