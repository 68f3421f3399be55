"""Fine-tuning on UCF101: a pretrained video tower and a linear layer (AVID's recipe).

Command:  python -m launch.train --config configs/finetune/ucf101.py:start=X
            --workdir DIR
          X is a workdir, a checkpoint or converted weights whose model has a
          video_tower of this architecture; `variant=s3d`, `tsm_resnet`, `r2plus1d_xdc`;
          `split=1`, 2, 3: the published number is their mean. AVID trains the linear
          layer alone first: `:warm,start=X --workdir WARM`, then
          `:start=WARM,whole`; how long and at what rate (5 epochs at 1e-3) is ours.
          `:runlocal` takes two steps of a tiny net on generated clips.
Data:     as configs/probe/ucf101.py, with --rate_hz 16
Cost:     16 epochs of five clips a video, 32 x 224 x 224, batch 32: 23,840 steps.
Paper:    AVID 91.5, MMV 92.5 (S3D-G), 95.2 (TSM-50x2), XDC 94.2; supervised 96.8.
Recipe:   Adam at 1e-4, x 0.3 after 6, 10 and 14 epochs, no weight decay, dropout 0.5;
          tests average the probabilities of ten clips. Not here: the crops of random
          area from 8 % on and the changes of colour (0.4, 0.4, 0.4, 0.2).
"""

from configs.finetune import common


def get_config(arg=None):
  return common.config(arg, data="data/ucf101_16hz", classes=101, videos=9_537)
