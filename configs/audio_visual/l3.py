"""L3-Net: which picture goes with which sound (arXiv 1705.08168).

Command:  python -m launch.train --config configs/audio_visual/l3.py --workdir DIR
          (`:runlocal` takes two steps of a tiny net; `:generated` trains a small one on
          generated clips in minutes, `:generated,random` probes random weights)
Clips:    of `:generated`, in runs/audio_visual:
          python -m data_pipelines.synthetic --num_clips 1200 --out clips
          python -m data_pipelines.prepare narrated --source clips --out shards
Data:     Flickr-SoundNet (500k videos of 10 s) or Kinetics-Sounds (34 classes) as
          narrated clips: `prepare narrated --size 256 --rate_hz 25 --audio_hz 48000`.
Cost:     a 224 x 224 frame and one second of sound each, global batch 256; 9,508,738
          parameters. Steps and rate are ours; the paper says Adam, weight decay 1e-5.
Paper:    correspondence 78 % (Flickr) and 74 % (Kinetics-Sounds), chance 50, from
          memory; features: ESC-50 79.3, DCASE 93, ImageNet linear 32.3.
Not here: brightness and saturation changes; the classifiers of ESC-50 and ImageNet
          (their features are the outputs audio_pooled and video_features).
"""

from configs.audio_visual import common


def get_config(arg=None):
  both = ("video_features", "audio_features")
  data = dict(dir="data/flickr_soundnet", outputs=both, embeds=both, period_s=0.0)
  return common.pair_config(arg, "l3", ("base", "small", "mu"), **data)
