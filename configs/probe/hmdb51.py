"""HMDB51: 51 actions, three splits, a linear SVM on frozen features (MMV, MIL-NCE).

Command:  python -m launch.eval --config configs/probe/hmdb51.py --workdir DIR
            --checkpoint X [--config.data=data/hmdb51]
          (`:c=1e-4` for TSM-50; `:mil_nce` for MIL-NCE's protocol, `:mil_nce,code` as
          its code does it; `:split=1`, `:own`, `:runlocal` as for UCF101)
Data:     for k in 1 2 3: python -m data_pipelines.prepare clips --format actions
            --options split_number=$k --source LISTS --videos HMDB51 --rate_hz 10
            --size 224 --clip_s 0 --no_audio --out data/hmdb51/split$k
          MIL-NCE takes all frames: --rate_hz 30.
Protocol: ten passes of random clips of 32 frames at 10 Hz, crop 200, mirrored half of
          the time; StandardScaler; LinearSVC with C = 3e-4 (S3D, TSM-50x2) or 1e-4
          (TSM-50); scores averaged over ten clips; mean of the three splits.
          MIL-NCE: ten windows of 32 frames evenly spaced, size 224, and their mirror
          images (the published code leaves these out); mixed5c; LinearSVC with C = 100
          of features as they are; scores of a video added up.
Paper:    MMV 62.6 (S3D-G), 66.7 (TSM-50), 67.1 (TSM-50x2); supervised 75.9.
          MIL-NCE 53.1 (S3D-G), 54.8 (I3D).
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(
    arg, split=0, c=3e-4, passes=10, windows=10, own=False, **common.MIL_NCE
  )
  c = common.config("video", "data/hmdb51")
  c.input = common.clips()
  if arg.own:
    c.inherit = common.CLIPS
  else:
    c.input.update(num_frames=32, frame_rate=10.0, size=200, short="loop")
  c.evals.hmdb51 = common.splits(arg.passes, arg.windows, arg.split) | dict(
    labels=("action",), classifier="svm", cs=(arg.c,), ks=(1, 5)
  )
  if arg.mil_nce:
    c.input = common.clips(num_frames=32, size=224, flip=False)
    c.inherit = ()
    c.evals.hmdb51 = common.mil_nce(arg.windows, arg.split, code=arg.code)
  return common.runlocal(c) if arg.runlocal else c
