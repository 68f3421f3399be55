"""AVE-Net: pictures and sounds in one space (arXiv 1712.06651).

Command:  python -m launch.train --config configs/audio_visual/ave.py --workdir DIR
          (`:runlocal` takes two steps of a tiny net; `:generated` trains a small one on
          generated clips in minutes, made as in configs/audio_visual/l3.py, with
          `:generated,random` for random weights)
Data:     AudioSet-Instruments (110 classes, 263k / 30k / 4.3k clips of 10 s), as
          narrated clips: `prepare narrated --size 256 --rate_hz 25 --audio_hz 48000`.
Cost:     a 224 x 224 frame and one second of sound each, global batch 256; 9,541,636
          parameters. Steps, rate and batch are ours.
Paper:    correspondence 81.9 %; nDCG@30 image-image .604, image-audio .561, audio-image
          .587, audio-audio .665 (L3-Net .567, .418, .385, .653, chance .407).
Not here: brightness and saturation changes; the classes of AudioSet in the stream, so
          nDCG is measured on generated clips only.
"""

from configs.audio_visual import common


def get_config(arg=None):
  both = ("video_embed", "audio_embed")
  data = dict(outputs=both, embeds=both, period_s=0.04)
  data["dir"] = "data/audioset_instruments"
  return common.pair_config(arg, "ave", ("ave", "small", "mu"), **data)
