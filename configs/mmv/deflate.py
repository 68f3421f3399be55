"""MMV's video network as an image network (arXiv 2006.16228, sec. 3.3).

Command:  python -m launch.train --config configs/mmv/deflate.py --workdir DIR
          (`:variant=tsm_resnet` or `tsm_resnet_x2`; `:runlocal` takes two steps of a
          tiny net on generated clips)
Small:    `:generated,start=DIR,modalities=3,seed=0` deflates DIR/modalities=3,seed=0,
          a run that `launch.sweep` made of configs/mmv/fac.py:generated, and probes
          pictures.
Data:     pictures as the first frames of prepared clips; weights/mmv_s3d.pkl is the
          released file of the variant.
Expected: `deflation/relative` falls: the image network nears what the video network
          gives on a clip that stands still. The paper's recipe is not published; steps
          and rate are ours. Paper: PASCAL VOC07 and ImageNet linear probes.
"""

import ml_collections

from configs import common

FILES = {
  "s3d": "mmv_s3d.pkl",
  "tsm_resnet": "mmv_tsm_resnet_x1.pkl",
  "tsm_resnet_x2": "mmv_tsm_resnet_x2.pkl",
}


def get_config(arg=None):
  small = dict(generated=False, start="runs/mmv", modalities=3, seed=0)
  arg = common.parse_arg(arg, variant="s3d", runlocal=False, **small)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = arg.seed, 10_000
  c.model = dict(name="deflated", variant=arg.variant, dtype="bfloat16")
  c.tasks = dict(deflation=dict(objective="deflation:l1"))
  c.init_from = dict(path=f"weights/{FILES[arg.variant]}", importer="deflate")
  c.input = dict(
    task="narrated_clips",
    dir="data/howto100m",
    split="train",
    rows=256,
    fields=("video",),
    text="none",
    num_frames=1,
    size=224,
    flip=True,
  )
  c.optim = dict(name="adam", lr=1e-3, schedule="cosine")
  learned = r"image_tower/.*bn[^/]*/(scale|bias)$"
  c.optim.groups = ((learned, {}), (r".*", dict(freeze=True)))
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=2)
  if arg.runlocal:
    c.model.update(variant="mu", dtype="float32")
    c.init_from = {}
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.input.update(dir="synthetic/narrated", rows=8, size=32)
  elif arg.generated:
    c.model.update(variant="small", dtype="float32")
    c.init_from.path = f"{arg.start}/modalities={arg.modalities},seed={arg.seed}"
    c.total_steps, c.log_every, c.checkpoint.every = 100, 20, 100
    c.input.update(dir="runs/audio_visual/shards", rows=32, size=64, flip=False)
    seen = dict(fields=("video", "label"))
    c.evals = dict(
      probe=dict(
        evaluator="linear_probe",
        train=seen | dict(split="train"),
        test=seen | dict(split="test"),
        labels=("shape", "colour"),
        method="encode_image",
        output="image_features",
        cs=(0.01, 0.1, 1.0),
        folds=3,
      )
    )
  return c
