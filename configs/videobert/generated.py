"""VideoBERT on generated clips that learns on one CPU core: what the paper shows.

Command:  python -m launch.narrated --experiment tokens --workdir runs/narrated
            --seed 0,1,2
          which trains an S3D by MIL-NCE, extracts its features, clusters them to a tree
          of 400 leaves, and trains this config; the last of it alone is
          python -m launch.train --config configs/videobert/generated.py --workdir DIR
          (`:runlocal`)
Data:     2,400 clips with what is said around them, on and off the point; video tokens
          are leaves of features of 1.6 s, one each 0.8 s.
Expected: the verb in the gap of a sentence that was never trained for it, top-1 at
          least twice that of the same sentence without the video.
Unlike the paper, for there are few words: of pairs 30 % of words and tokens are hidden,
one pair in five is a wrong one and only right ones are asked for their words,
narrations are not joined (others of the clip say the same verb), and the centroids are
learned on.
"""

import ml_collections

from configs import common

TEMPLATE = "and look the [MASK] [MASK] [MASK] really nicely"
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
# What is said of each action in one word, as far as that goes.
VERBS = ("moves", "moves", "rises", "falls", "grows", "shrinks", "spins", "spins")
VERBS += ("bounces", "blinks", "shakes", "orbits")


def get_config(arg=None):
  arg = common.parse_arg(arg, root="runs/narrated", runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 4_000
  tokens = dict(num_tokens=400)
  c.vocab = dict(name="wordpiece", file=f"{arg.root}/wordpiece.txt")
  c.model = dict(name="videobert", variant="small", width=128, token_dim=256)
  c.model.update(train_tokens=True, **tokens)
  pieces = dict(unit="window", fields=("tokens",))
  c.tasks = dict(
    text=dict(objective="videobert:text", input=dict(fields=("text",)), weight=0.05),
    video=dict(objective="videobert:video", input=pieces, weight=0.05) | tokens,
    joint=dict(objective="videobert:joint", rate=0.3, **tokens),
  )
  c.tasks["joint"].update(negative_rate=0.2, masked_on_negatives=False)
  c.input = dict(task="video_segments", dir=f"{arg.root}/features", split="train")
  c.input.update(tree=f"{arg.root}/tree.npz", rows=64, max_clips=8, max_words=32)
  c.input.update(subsample=1, join=0)  # a clip has four tokens: all are kept
  c.init_from = dict(path=c.input.tree, importer="videobert", scale="words")
  c.optim = dict(name="adamw", lr=1e-3, clip=1.0, warmup=0.1, schedule="cosine")
  c.optim.groups = ((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=0.01)))
  # N(0, 0.02) is made for wide nets.
  c.init_scale = ((r"(encoder|project)/.*kernel$", 3.0),)
  slots = (("colour", COLOURS), ("object", SHAPES), ("verb", VERBS))
  c.evals = dict(
    zero_shot=dict(
      evaluator="zero_shot_template",
      batches=dict(split="test", unit="window", fields=("tokens", "label")),
      candidates=slots,
      labels=("label_colour", "label_shape", "label_action"),
      tokens=c.vocab.file,
      template=TEMPLATE,
      ks=(1, 3),
    )
  )
  c.log_every, c.checkpoint = 100, dict(every=500, keep_last=1)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.total_steps, c.log_every, c.checkpoint.every = 3, 1, 3
    at = "synthetic/segments"
    c.vocab.file = c.evals.zero_shot.tokens = f"{at}/vocab.txt"
    # Its few texts do not have all verbs.
    c.evals.zero_shot.update(candidates=(*slots[:2], ("", ())))
    c.evals.zero_shot.labels = ("label_colour", "label_shape")
    c.model = dict(name="videobert", variant="mu", token_dim=16, num_tokens=16)
    for task in ("video", "joint"):
      c.tasks[task].num_tokens = 16
    c.input.update(dir=at, tree=f"{at}/tree.npz", rows=8, max_words=24)
    c.init_from.path = f"{at}/tree.npz"
  return c
