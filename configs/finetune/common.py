"""Fine-tuning on actions with the constants of AVID (arXiv 2004.12943, its code)."""

import ml_collections

from configs import common

EPOCHS, CLIPS, ROWS = 16, 5, 32  # clips of a video in an epoch; rows of a batch
WARM = 5  # epochs of the linear layer alone
TINY = dict(
  space_to_depth=(),
  stem_width=8,
  stem_window=(2, 2, 2),
  stem_strides=(2, 2, 2),
  stages=(
    ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
    ("conv_2c", "separable", 8),
    ("gating", "gate"),
  ),
)


def config(arg, *, data: str, classes: int, videos: int) -> ml_collections.ConfigDict:
  """The config; `arg` as in the headers, `videos` in the training split."""
  arg = common.parse_arg(
    arg, variant="r2plus1d", split=1, start="", whole=False, warm=False, runlocal=False
  )
  c = ml_collections.ConfigDict()
  epoch = videos * CLIPS // ROWS  # steps
  c.seed, c.total_steps = 0, epoch * (WARM if arg.warm else EPOCHS)
  c.model = dict(name="classifier", variant=arg.variant, num_classes=classes)
  c.model.update(dropout=0.5, dtype="bfloat16")
  c.model.remat = "none" if arg.variant.startswith("tsm") else "full"
  c.tasks = dict(classify=dict(objective="classify:softmax", label="label_action"))
  c.input = dict(
    task="narrated_clips",
    dir=f"{data}/split{arg.split}",
    split="train",
    rows=ROWS,
    fields=("video", "label"),
    text="none",
    num_frames=32,
    frame_rate=16.0,
    size=224,
    short="loop",
    flip=True,
  )
  test = dict(split="test", windows=10)
  c.evals = dict(
    classify=dict(evaluator="classify", batches=test, label="label_action")
  )
  c.optim = dict(name="adam", lr=1e-4, schedule="step", gamma=0.3)
  c.optim.boundaries = tuple(n / EPOCHS for n in (6, 10, 14))
  if arg.warm:
    c.optim.boundaries = ()
    c.optim.lr = 1e-3
    c.optim.groups = ((r"_tower/", dict(freeze=True)), (r".*", {}))
  c.init_from = {}
  if arg.start:
    c.init_from = dict(path=arg.start) | ({} if arg.whole else dict(only="_tower/"))
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=500, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.update(tower="s3d", tower_args=TINY, num_classes=12, dtype="float32")
    c.model.remat = "none"
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.input.update(dir="synthetic/narrated", rows=8, num_frames=8, frame_rate=4.0)
    c.input.update(size=32)
    c.evals.classify.batches.windows = 2
  return c
