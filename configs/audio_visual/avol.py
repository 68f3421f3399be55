"""AVOL-Net: where in the picture is what sounds? (arXiv 1712.06651)

Command:  python -m launch.train --config configs/audio_visual/avol.py --workdir DIR
          (`:runlocal` takes two steps of a tiny net; `:generated` trains a small one on
          generated clips in minutes, made as in configs/audio_visual/l3.py, with
          `:generated,random` for random weights; its report
          shows the maps over the frames)
Data:     AudioSet-Instruments as in configs/audio_visual/ave.py.
Cost:     a 224 x 224 frame and one second of sound each, global batch 256; 9,541,634
          parameters, maps of 14 x 14. Steps, rate and batch are ours.
Paper:    the peak lies in the annotated object in 81.7 % (the picture's centre 57.2).
Not here: brightness and saturation changes; boxes of AudioSet, so places are measured
          on generated clips only.
"""

from configs.audio_visual import common


def get_config(arg=None):
  pair = ("video_map", "audio_embed")
  variants = ("avol", "small_avol", "mu_avol")
  data = dict(dir="data/audioset_instruments", outputs=pair, embeds=None)
  c = common.pair_config(arg, "ave", variants, **data, period_s=0.04)
  if common.has_boxes(c):
    c.evals.place = dict(
      evaluator="sounding_object",
      batches=c.evals.pairs.batches.to_dict() | dict(fields=("video", "audio", "box")),
    )
  return c
