"""Fine-tuning on HMDB51: a pretrained video tower and a linear layer (AVID's recipe).

Command:  python -m launch.train --config configs/finetune/hmdb51.py:start=X
            --workdir DIR
          (arguments and recipe as in configs/finetune/ucf101.py; `:runlocal` takes two
          steps of a tiny net on generated clips)
Data:     as configs/probe/hmdb51.py, with --rate_hz 16
Cost:     16 epochs of five clips a video, 32 x 224 x 224, batch 32: 8,912 steps.
Paper:    AVID 64.7, MMV 69.6 (S3D-G), 75.0 (TSM-50x2), XDC 67.4; supervised 75.9.
"""

from configs.finetune import common


def get_config(arg=None):
  return common.config(arg, data="data/hmdb51_16hz", classes=51, videos=3_570)
