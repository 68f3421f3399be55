"""AudioSet: 527 sounds, several a clip, an MLP with one hidden layer of 512.

Command:  python -m launch.eval --config configs/probe/audioset.py --workdir DIR
            --checkpoint X [--config.data=data/audioset_sounds]
          (`:runlocal` is a probe on the sound of generated clips)
Data:     python -m data_pipelines.prepare sounds --format audioset --source SEGMENTS
            --sounds FILES --audio_hz 48000 --out data/audioset_sounds
          Availability shrinks: 20,361 and 18,589 clips are usual.
Protocol: mAP, AUC and d', macro over classes with a positive; d' both as the mean over
          classes and of the mean AUC. Batch norm, dropout 0.5, Adam at 1e-3 with a
          cosine, 30 epochs: ours, the papers do not say.
Paper:    MMV mAP 30.9 (TSM-50x2), 30.3 (S3D-G); supervised 43.9.
"""

from configs import common as args
from configs.probe import common


def get_config(arg=None):
  arg = args.parse_arg(arg, split="balanced_train", seconds=2.0, runlocal=False)
  c = common.config("audio", "data/audioset_sounds")
  c.input = common.sounds(seconds=float(arg.seconds), num_classes=527)
  c.evals.audioset = dict(
    evaluator="linear_probe",
    train=dict(split=arg.split, passes=10),
    test=dict(split="eval", windows=10),
    labels=("label",),
    classifier="mlp",
    options=(("hidden", 512), ("dropout", 0.5), ("lr", 1e-3), ("epochs", 30)),
  )
  return common.runlocal(c) if arg.runlocal else c
