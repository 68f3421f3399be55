"""VideoBERT's zero-shot verbs and objects on YouCook2 (arXiv 1904.01766, sec. 4.3).

Command:  python -m launch.eval --config configs/videobert/youcook2.py --workdir DIR
            --checkpoint X      (`:runlocal` on generated clips)
Data:     python -m data_pipelines.prepare clips --format youcook2 --source YOUCOOK2
            --videos VIDEOS --rate_hz 20 --size 224 --no_audio --out data/youcook2
          python -m launch.extract --config configs/mil_nce/howto100m.py
            --checkpoint S3D --window_s 1.5 --frame_rate 20 --out data/youcook2_s3d
            --config.input.dir=data/youcook2
          and data/youcook2/verbs.txt, objects.txt: a line a class, the word and then
          its other forms ("cut cuts cutting"), each word a token of the vocabulary.
Protocol: "now let me show you how to [MASK] the [MASK] ." and the clip's tokens; 45
          verbs and 63 objects, the most common ones of the captions, which are not
          published: the lists are the user's. A clip is right for each word that its
          caption names; clips whose caption names none do not count. Beside each figure
          that of the sentence without the video.
Paper:    verbs 3.2 / 43.3, objects 13.1 / 33.7 (top-1 / top-5).
"""

import ml_collections

from configs import common
from configs.videobert import generated


def get_config(arg=None):
  arg = common.parse_arg(arg, runlocal=False)
  c = ml_collections.ConfigDict()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  lists = {k: f"data/youcook2/{k}s.txt" for k in ("verb", "object")}
  tokens = "data/bert-base-uncased-vocab.txt"
  c.input = dict(task="video_segments", dir="data/youcook2_s3d", split="val", rows=32)
  c.input.update(tree="data/cooking_s3d/tree.npz", unit="window", fields=("tokens",))
  c.input.max_clips = 16
  template = "now let me show you how to [MASK] the [MASK] ."
  if arg.runlocal:
    at, template = "synthetic/segments", "the [MASK] [MASK]"
    tokens, lists = (
      f"{at}/vocab.txt",
      dict(verb=generated.COLOURS, object=generated.SHAPES),
    )
    c.input.update(dir=at, tree=f"{at}/tree.npz", split="test", rows=8, max_clips=8)
  c.input.named = lists
  c.evals = dict(zero_shot=dict(evaluator="zero_shot_template", batches={}))
  c.evals.zero_shot.update(template=template, tokens=tokens)
  c.evals.zero_shot.candidates = tuple(lists.items())
  c.evals.zero_shot.labels = ("label_verb", "label_object")
  return c
