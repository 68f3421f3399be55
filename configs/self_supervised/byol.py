"""BYOL: ResNet-50 on ImageNet (arXiv 2006.07733).

Command:  python -m launch.train --config configs/self_supervised/byol.py --workdir DIR
          (`:epochs=100` or `:epochs=300`, with their own rates; `:runlocal` takes two
          steps of a tiny net on generated clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     as configs/self_supervised/simclr.py.
Cost:     4,096 rows of two views of 224 x 224 through two networks, 312 steps an epoch;
          8 hours on 512 TPU v3 cores for 1,000 epochs in the paper.
Paper:    linear ImageNet top-1 74.3 after 1,000 epochs, 72.5 after 300.
"""

from configs import common as args
from configs.self_supervised import common

# epochs -> rate for 256 rows, decay of weights, tau_0
RECIPES = {
  1_000: (0.2, 1.5e-6, 0.996),
  300: (0.3, 1e-6, 0.99),
  100: (0.45, 1e-6, 0.99),
}


def get_config(arg=None):
  arg = args.parse_arg(arg, epochs=1_000, rows=4_096, **args.FORMS)
  if arg.epochs not in RECIPES:
    raise ValueError(f"epochs={arg.epochs}; published are {tuple(RECIPES)}.")
  lr, wd, base = RECIPES[arg.epochs]
  c = common.config(arg, "byol_r50", rows=arg.rows, epochs=arg.epochs)
  c.tasks = dict(byol=dict(objective="byol:byol"))
  # A reference: the schedule follows an override of total_steps.
  steps = c.get_ref("total_steps")
  c.after_update = dict(fn="byol:target", base=base, total_steps=steps)
  c.optim = dict(name="lars", lr=lr * arg.rows / 256, wd=wd, momentum=0.9)
  c.optim.update(schedule="cosine", warmup=10 * (common.PICTURES // arg.rows))
  c.optim.groups = common.excluded(wd=0.0, trust=None)
  if arg.runlocal:
    c.optim.update(lr=0.1, warmup=1)
    view = dict(size=24, crop={}, flip={}, grey={}, blur=dict(p=1.0))
    view["jitter"] = dict(form="shift", brightness=0.4, hue=0.1)
    other = view | dict(blur=dict(p=0.1), solarise={})
    c.tasks.byol.views = (view, other)
  elif arg.generated:
    c.after_update.base = 0.98
  return common.finish(c, arg)
