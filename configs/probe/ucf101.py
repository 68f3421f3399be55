"""UCF101: 101 actions, three splits, a linear SVM on frozen features (MMV, MIL-NCE).

Command:  python -m launch.eval --config configs/probe/ucf101.py --workdir DIR
            --checkpoint X [--config.data=data/ucf101]
          (`:split=1` for one split, `:own` to sample clips as the checkpoint's training
          did, `:mil_nce` for MIL-NCE's protocol, that of configs/probe/hmdb51.py,
          `:runlocal` for generated clips)
Data:     for k in 1 2 3: python -m data_pipelines.prepare clips --format actions
            --options split_number=$k --source LISTS --videos UCF-101 --rate_hz 25
            --size 224 --clip_s 0 --no_audio --out data/ucf101/split$k
          The published code keeps the first 20 s of a video.
Protocol: features of ten passes of random clips of 32 frames at stride 2 (25 Hz), crop
          224, mirrored half of the time; StandardScaler; LinearSVC with C = 0.001; test
          scores averaged over ten clips; top-1 and top-5, mean of the three splits.
Paper:    MMV 89.6 (S3D-G), 91.5 (TSM-50), 91.8 (TSM-50x2); supervised 96.8.
          MIL-NCE 82.7 (S3D-G), 83.4 (I3D).
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(
    arg, split=0, c=0.001, passes=10, windows=10, own=False, **common.MIL_NCE
  )
  c = common.config("video", "data/ucf101")
  c.input = common.clips()
  if arg.own:
    c.inherit = common.CLIPS
  else:
    c.input.update(num_frames=32, frame_rate=12.5, size=224, short="loop")
  c.evals.ucf101 = common.splits(arg.passes, arg.windows, arg.split) | dict(
    labels=("action",), classifier="svm", cs=(arg.c,), ks=(1, 5)
  )
  if arg.mil_nce:
    c.input = common.clips(num_frames=32, size=224, flip=False)
    c.inherit = ()
    c.evals.ucf101 = common.mil_nce(arg.windows, arg.split, code=arg.code)
  return common.runlocal(c) if arg.runlocal else c
