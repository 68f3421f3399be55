"""Kinetics-400/600: softmax regression on frozen features, on the device.

Command:  python -m launch.eval --config configs/probe/kinetics.py --workdir DIR
            --checkpoint X [--config.data=data/kinetics600]
          (`:own` to sample clips as the checkpoint's training did; `:runlocal` for
          generated clips)
Data:     python -m data_pipelines.prepare clips --format actions --source CSV
            --videos CLIPS --rate_hz 25 --size 224 --clip_s 0 --no_audio
            --out data/kinetics600
Protocol: two passes of random clips for training, ten windows of three crops in tests,
          scores averaged; C by four folds of the training clips. The published
          hyper-parameters are not known: these are ours.
Paper:    MMV 68.0 (FAC S3D-G), 70.5 (TSM-50x2) on Kinetics-600; supervised 81.8.
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(arg, passes=2, windows=10, crops=3, own=False, runlocal=False)
  c = common.config("video", "data/kinetics600")
  c.input = common.clips(rows=64)
  if arg.own:
    c.inherit = common.CLIPS
  else:
    c.input.update(num_frames=32, frame_rate=12.5, size=224, short="loop")
  c.evals.kinetics = dict(
    evaluator="linear_probe",
    train=dict(split="train", passes=arg.passes),
    test=dict(split="val", windows=arg.windows, crops=arg.crops),
    labels=("action",),
    classifier="logistic_device",
    cs=(1e-4, 1e-3, 1e-2),
    ks=(1, 5),
  )
  return common.runlocal(c) if arg.runlocal else c
