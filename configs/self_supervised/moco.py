"""MoCo v2, and v1: ResNet-50 on ImageNet (arXiv 2003.04297, 1911.05722).

Command:  python -m launch.train --config configs/self_supervised/moco.py --workdir DIR
          (`:v1`; `:epochs=800`; `:runlocal` takes two steps of a tiny net on generated
          clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     as configs/self_supervised/simclr.py.
Cost:     256 rows of two views of 224 x 224, 5,004 steps an epoch; the queue takes 34
          MB, the key encoder 112; 53 hours on eight V100 for 200 epochs in the paper.
Paper:    linear ImageNet top-1 60.6 (v1, 200 epochs), 67.5 (v2, 200), 71.1 (v2, 800).
"""

from configs import common as args
from configs.self_supervised import common


def get_config(arg=None):
  arg = args.parse_arg(arg, epochs=200, v1=False, **args.FORMS)
  variant = "moco_v1" if arg.v1 else "moco_v2"
  c = common.config(arg, variant, rows=256, epochs=arg.epochs)
  steps = common.PICTURES // 256  # of an epoch
  c.model.bn_groups = 8  # the GPUs of the papers: shuffled keys need groups
  c.tasks = dict(moco=dict(objective="moco:moco", tau=0.07 if arg.v1 else 0.2))
  if arg.v1:  # stronger in hue, on every picture; no blur
    jitter = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, p=1.0)
    view = dict(size=224, crop=dict(area=(0.2, 1.0)), flip={}, jitter=jitter, grey={})
    c.tasks.moco.views = view
  c.after_update = dict(fn="moco:momentum", size=65_536, dim=128, decay=0.999)
  c.optim = dict(name="sgd", lr=0.03, momentum=0.9, wd=1e-4, schedule="cosine")
  if arg.v1:
    cuts = (120 * steps + 1, 160 * steps + 1)
    c.optim.update(schedule="step", boundaries=cuts)
  if arg.runlocal:
    c.model.bn_groups = 2
    c.after_update.update(size=32, dim=8)
    c.tasks.moco.views = dict(size=24, crop={}, flip={}, jitter={}, grey={})
  elif arg.generated:
    c.model.bn_groups = 4
    c.after_update.update(size=1_024, dim=64, decay=0.99)
  return common.finish(c, arg)
