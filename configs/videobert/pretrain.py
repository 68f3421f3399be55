"""VideoBERT on instructional videos (arXiv 1904.01766): words and video tokens.

Command:  python -m launch.extract --config configs/mil_nce/howto100m.py \\
            --checkpoint S3D --window_s 1.5 --frame_rate 20 --out data/cooking_s3d
          python -m launch.cluster --features data/cooking_s3d \\
            --out data/cooking_s3d/tree.npz
          python -m launch.train --config configs/videobert/pretrain.py --workdir DIR
          (`:variant=base` projects the centroids, `:bert=FILE` starts from BERT,
          `:runlocal`)
Data:     312K cooking videos, 23,186 h; 120K of them with speech, whose punctuation was
          restored. Video-only rows are 16 tokens in a row.
Cost:     batch 128, 0.5M steps on four Cloud TPUs for two days in the paper.
Paper:    YouCook2 zero-shot verbs 3.2 / 43.3 and objects 13.1 / 33.7 (top-1 / top-5).
Weights of the three regimes, and of the losses within the joint one, are 1; the paper
does not give them.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(
    arg, variant="large", bert="", num_tokens=12**4, token_dim=1024, runlocal=False
  )
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps, c.micro = 0, 500_000, 1
  at = "data/cooking_s3d"
  c.vocab = dict(name="wordpiece", file="data/bert-base-uncased-vocab.txt")
  c.model = dict(name="videobert", variant=arg.variant, dtype="bfloat16")
  c.model.update(num_tokens=arg.num_tokens, token_dim=arg.token_dim)
  tokens = dict(num_tokens=arg.num_tokens)
  pieces = dict(unit="window", fields=("tokens",))  # laid over c.input
  c.tasks = dict(
    text=dict(objective="videobert:text", input=dict(fields=("text",))),
    video=dict(objective="videobert:video", input=pieces) | tokens,
    joint=dict(objective="videobert:joint") | tokens,
  )
  c.input = dict(task="video_segments", dir=at, split="train", rows=128)
  c.input.update(tree=f"{at}/tree.npz", max_clips=16, max_words=64)
  # Large starts from BERT-large; the centroids are the tokens' embeddings in any case.
  start = dict(path=arg.bert or f"{at}/tree.npz", importer="videobert")
  c.init_from = start | (dict(tokens=f"{at}/tree.npz") if arg.bert else {})
  c.optim = dict(name="adamw", lr=1e-5, clip=1.0, warmup=10_000)
  c.optim.groups = (
    (r"video_tokens$", dict(freeze=True)),  # held during pretraining
    (r"bias$|norm|scale$", dict(wd=0.0)),
    (r".*", dict(wd=0.01)),
  )
  c.tensorboard = True
  c.log_every, c.checkpoint = 100, dict(every=2_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.total_steps, c.optim.warmup, c.log_every = 3, 1, 1
    c.checkpoint.every = 3
    at = "synthetic/segments"
    c.vocab.file = f"{at}/vocab.txt"
    c.model = dict(name="videobert", variant="mu", token_dim=16, num_tokens=16)
    for task in ("video", "joint"):
      c.tasks[task].num_tokens = 16
    c.input.update(dir=at, tree=f"{at}/tree.npz", rows=8, max_clips=8, max_words=24)
    # Features after a ReLU share one direction.
    c.init_from = dict(path=f"{at}/tree.npz", importer="videobert", scale="words")
  return c
