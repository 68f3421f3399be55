"""ESC-50: sounds in five folds, a linear SVM on frozen features of windows.

Command:  python -m launch.eval --config configs/probe/esc50.py --workdir DIR
            --checkpoint X [--config.data=data/esc50]
          X is a workdir, a checkpoint, converted weights or feature shards;
          `:c=0.01` fixes C; `:runlocal` is a probe on the sound of generated clips.
Data:     python -m data_pipelines.prepare sounds --format esc50 --source ESC-50-master
            --audio_hz 48000 --out data/esc50          (the rate of the model)
Protocol: training on ten passes of random windows of 2 s, tests on ten evenly spaced
          ones, whose scores are averaged; StandardScaler; C by leaving out one of the
          four training folds after the other; mean accuracy over the five folds. The
          ten passes are ours; MMV says only that windows are 2 s long.
Paper:    MMV (S3D-G, AudioSet + HowTo100M) 87.7, AVID 89.2, XDC 84.8, L3 79.3.
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(arg, c=0.0, seconds=2.0, passes=10, windows=10, runlocal=False)
  c = common.config("audio", "data/esc50")
  c.input = common.sounds(split="all", seconds=float(arg.seconds))
  c.evals.esc50 = dict(
    evaluator="linear_probe",
    train=dict(passes=arg.passes),
    test=dict(windows=arg.windows),
    labels=("label",),
    by="fold",
    choose_by="fold",
    classifier="svm",
    cs=(arg.c,) if arg.c else (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
  )
  return common.runlocal(c) if arg.runlocal else c
