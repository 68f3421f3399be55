"""SimCLR: ResNet-50 on ImageNet (arXiv 2002.05709).

Command:  python -m launch.train --config configs/self_supervised/simclr.py
            --workdir DIR
          (`:epochs=1000`, `:rows=8192`; `:runlocal` takes two steps of a tiny net on
          generated clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     python -m data_pipelines.prepare clips --format folder --source IMAGENET
            --rate_hz 1 --size 256 --no_audio --out data/imagenet
          Pictures are stored with a short side of 256, and views are cut from a square
          of it, at random in training: crops reach less far than those of whole
          pictures.
Cost:     4,096 rows of two views of 224 x 224, 312 steps an epoch; 1.5 hours on 128
          TPU v3 cores for 100 epochs in the paper.
Paper:    linear ImageNet top-1 69.3 after 1,000 epochs.
"""

from configs import common as args
from configs.self_supervised import common


def get_config(arg=None):
  arg = args.parse_arg(arg, epochs=100, rows=4_096, **args.FORMS)
  c = common.config(arg, "simclr_r50", rows=arg.rows, epochs=arg.epochs)
  steps = common.PICTURES // arg.rows  # of an epoch
  c.tasks = dict(simclr=dict(objective="simclr:simclr", tau=0.1))
  # The rate grows with the batch; the code decays by 1e-4 where the paper has 1e-6.
  c.optim = dict(name="lars", lr=0.3 * arg.rows / 256, wd=1e-6, momentum=0.9)
  c.optim.update(schedule="cosine", warmup=10 * steps)
  c.optim.groups = common.excluded(wd=0.0, trust=None)
  if arg.runlocal:
    c.optim.update(lr=0.1, warmup=1)
    c.tasks.simclr.views = dict(size=24, crop={}, flip={}, jitter={}, grey={}, blur={})
  return common.finish(c, arg)
