"""UNITER pretraining on COCO and Visual Genome (arXiv 1909.11740), the in-domain run.

Command:  python -m launch.train --config configs/uniter/pretrain.py --workdir DIR
          (`:variant=large`, `:ablation` with hard labels MRC, `:runlocal`)
Data:     prepared from the published feature and text LMDBs into data/coco_vg/.
Cost:     8 x 10,240 tokens x 2 accumulations a step, 200k steps: V100 x 8 for days.
Paper:    VQA test-dev 72.70, NLVR2 dev 77.18 after fine-tuning (base).
ITM : MLM : MRFR : MRC-kl = 6 : 8 : 4 : 4 for COCO, one task a step.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="base", ablation=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 42, 200_000, 2
  c.vocab = dict(name="wordpiece", file="data/coco_vg/bert-base-cased-vocab.txt")
  c.model = dict(name="uniter", variant=arg.variant, dtype="bfloat16")
  probs = dict(fields=("regions_probs",))  # laid over c.input
  c.tasks = dict(
    itm=dict(objective="match:itm", weight=6, wra_coef=0.1),
    mlm=dict(objective="masked:mlm", weight=8, rate=0.15),
    mrfr=dict(objective="masked:mrfr", weight=4, rate=0.15),
    mrc_kl=dict(objective="masked:mrc_kl", weight=4, rate=0.15, input=probs),
  )
  if arg.ablation:
    c.tasks.mrc = dict(objective="masked:mrc", weight=4, rate=0.15, input=probs)
  c.input = dict(task="text_regions", dir="data/coco_vg", split="train", tokens=163_840)
  c.input.max_rungs = 4  # times the tasks: 16 compiled steps
  c.optim = dict(
    name="adamw",
    lr=5e-5,
    b2=0.98,
    eps=1e-6,
    clip=5.0,
    warmup=10_000,
    floor=1e-8,
    # The published filter misses the norms of the image embedding and of the heads;
    # here no norm and no bias decays.
    groups=((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=0.01))),
  )
  c.tensorboard = True
  c.log_every, c.checkpoint = 100, dict(every=2_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.variant == "large":
    c.total_steps, c.input.tokens, c.micro = 500_000, 393_216, 4
  if arg.runlocal:
    c.model.variant, c.model.dtype, c.model.region_classes = "mu", "float32", 28
    c.total_steps, c.micro, c.optim.warmup, c.log_every = 4, 1, 1, 1
    c.checkpoint.every = 4
    c.vocab.file = "synthetic/scenes/vocab.txt"
    c.input.update(dir="synthetic/scenes", tokens=1_024, max_rungs=1)
  return c
