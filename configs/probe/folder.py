"""Your own folders of clips, sounds or pictures, the class being the folder.

Command:  python -m launch.eval --config configs/probe/folder.py --workdir DIR
            --checkpoint X --config.data=data/mine
          `:kind=sound` for recordings; pictures are clips of one frame;
          `:classifier=knn`, `mlp`, `svm` ...; `:runlocal` for generated clips.
Data:     mine/train/<class>/<file>, mine/test/<class>/<file>;
          python -m data_pipelines.prepare clips --format folder --source mine --out
            data/mine          (or prepare sounds --options kind=sound --audio_hz HZ)
Protocol: clips are sampled as the checkpoint's training did; one pass of random clips
          for training, four windows in tests; logistic regression, C by folds of the
          training clips.
Expected: chance and the interval stand beside each number.
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(
    arg,
    kind="video",
    passes=1,
    windows=4,
    seconds=2.0,
    classifier="logistic",
    runlocal=False,
  )
  sound = arg.kind == "sound"
  c = common.config("audio" if sound else "video", "data/mine")
  c.input = common.sounds(seconds=float(arg.seconds)) if sound else common.clips()
  c.inherit = () if sound else common.CLIPS
  c.evals.folder = dict(
    evaluator="linear_probe",
    train=dict(split="train", passes=arg.passes),
    test=dict(split="test", windows=arg.windows),
    labels=("label",) if sound else ("action",),
    classifier=arg.classifier,
  )
  return common.runlocal(c) if arg.runlocal else c
