"""DCASE2014: ten acoustic scenes, 100 clips of 30 s to train on and 100 to test.

Command:  python -m launch.eval --config configs/probe/dcase.py --workdir DIR
            --checkpoint X [--config.data=data/dcase]
          (`:runlocal` is a probe on the sound of generated clips)
Data:     folders train/<scene>/*.wav and test/<scene>/*.wav;
          python -m data_pipelines.prepare sounds --format folder --options kind=sound
            --source DCASE --audio_hz 48000 --out data/dcase
Protocol: 60 evenly spaced windows of 2 s of each clip, in training too; linear SVM, C
          by four folds of the training clips; scores of windows averaged.
Paper:    SoundNet 88, L3 93, AVTS 94, XDC 95.
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(arg, seconds=2.0, windows=60, runlocal=False)
  c = common.config("audio", "data/dcase")
  c.input = common.sounds(seconds=float(arg.seconds), windows=arg.windows)
  c.evals.dcase = dict(
    evaluator="linear_probe",
    train=dict(split="train"),
    test=dict(split="test"),
    labels=("label",),
    classifier="svm",
    cs=(1e-4, 1e-3, 1e-2, 1e-1, 1.0),
  )
  return common.runlocal(c) if arg.runlocal else c
