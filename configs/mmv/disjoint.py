"""MMV, a space for each pair of modalities (arXiv 2006.16228).

Command:  python -m launch.train --config configs/mmv/disjoint.py --workdir DIR
          (`:variant=tsm_resnet`, `tsm_resnet_x2`, `r2plus1d` for other video networks;
          `:howto` for HowTo100M alone, where video and text weigh ten times as much;
          `:runlocal` takes two steps of a tiny net on generated clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     `python -m data_pipelines.prepare narrated --audio_hz 48000` writes
          data/howto100m/ and data/audioset/ (10 s clips without text); word2vec.txt
          holds 65,535 words; the frozen vectors of the released files come by
          `init_from = dict(path=..., importer="mmv")`.
Cost:     32 frames of 200 x 200 and 3.2 s of sound, global batch 4,096 (2,048 for
          TSM-50x2), 500k steps.
Paper:    merging ablation, from memory: linear UCF101 85.1, HMDB51 59.3, ESC-50 87.0,
          YouCook2 R@10 25.0, MSR-VTT R@10 22.5 (S3D-G, 16 frames).
Not here: scale jitter and the colour changes of the paper.
"""

from configs.mmv import common


def get_config(arg=None):
  return common.config(arg, "disjoint")
