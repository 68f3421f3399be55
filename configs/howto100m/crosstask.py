"""CrossTask's steps found by their names, zero-shot (arXiv 1903.08225, 1906.03327).

Command:  python -m launch.eval --config configs/howto100m/crosstask.py --workdir DIR
            --checkpoint X      (X: of configs/howto100m/pretrain.py, or converted)
Data:     python -m data_pipelines.prepare clip_features --format crosstask
            --source CROSSTASK --features 2D,3D --rates 1.0,1.5 --out data/crosstask
          with the features of HowTo100M (ResNet-152, ResNeXt-101) of its videos.
Protocol: the embedding of every second against the names of the steps of its task, one
          second a step by dynamic programming, in order; recall of a step within its
          annotated time, mean over tasks; test videos. Where papers leave it open the
          protocol is ours: no code of it was released.
Paper:    mean recall 33.6 (HowTo100M); 31.6 fully supervised; MIL-NCE, on features of
          its own of 3.2 s around each second, 40.5 (S3D-G) and 36.4 (I3D).
"""

import ml_collections


def get_config(arg=None):
  if arg:
    raise ValueError(f"config argument {arg!r}; there are none.")
  c = ml_collections.ConfigDict()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.input = dict(task="moments", dir="data/crosstask", split="test", rows=8)
  c.evals = dict(
    steps=dict(
      evaluator="localize",
      videos=dict(labels="steps", max_clips=1024),
      steps=dict(unit="step", rows=64),
    )
  )
  return c
