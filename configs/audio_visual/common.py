"""What the configs of pictures and sounds share: input, evaluations, small forms."""

import ml_collections

from configs import common

LABELS = ("shape", "colour", "action")


def config(arg, variants, *, dir, outputs):
  """Start of a config: the part that does not depend on the task.

  Args:
    arg: of get_config, parsed; with `runlocal` or `generated`.
    variants: (full, small, mu) of the model.
    dir: of the data at full size; outputs: what pairs are scored by.
  """
  c = ml_collections.ConfigDict()
  c.seed = 0
  c.model = dict(variant=variants[0], dtype="bfloat16")
  c.input = dict(
    task="narrated_clips",
    dir=dir,
    split="train",
    rows=256,
    fields=("video", "audio"),
    text="none",
    size=224,
    flip=True,
  )
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.evals = dict(pairs=dict(evaluator="correspondence", outputs=outputs))
  if arg.runlocal or arg.generated:
    c.model.variant, c.model.dtype = variants[1], "float32"
    c.input.update(dir="runs/audio_visual/shards", rows=32, size=64, pad=4)
    c.input.update(audio_hz=16_000)
    c.log_every, c.checkpoint = 10, dict(every=100, keep_last=2)
  if arg.runlocal:
    c.model.variant = variants[2]
    c.input.update(dir="synthetic/narrated", rows=8, size=32)
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
  return c


def probes(c, seen, *, audio_output="audio_features"):
  """Frozen probes on picture and on sound of generated clips, which have labels."""
  if "evals" not in c:
    c.evals = {}
  for stream, output in (("video", "video_features"), ("audio", audio_output)):
    rows = seen | dict(fields=(stream, "label"))
    c.evals[f"probe_{stream}"] = dict(
      evaluator="linear_probe",
      train=rows | dict(split="train"),
      test=rows | dict(split="test"),
      labels=LABELS,
      method=f"encode_{stream}",
      output=output,
      cs=(0.01, 0.1),
      folds=3,
    )


def pair_config(arg, name, variants, *, dir, outputs, embeds, period_s):
  """L3-Net, AVE-Net or AVOL-Net: one frame and one second of sound.

  Args:
    embeds: outputs that retrieval compares; None without.
    period_s: of `objectives.correspondence`.
  """
  arg = common.parse_arg(arg, **common.FORMS)
  c = config(arg, variants, dir=dir, outputs=outputs)
  c.model.name = name
  # Frames at 0, 0.5 and 1 s of 1.5 s of sound, out of which a second is cut.
  c.input.update(num_frames=3, frame_rate=2.0, audio_hz=48_000)
  task = dict(objective="correspondence:avc", audio_hz=48_000, period_s=period_s)
  # Two frames of one second: the one that is seen stands in its middle.
  seen = dict(num_frames=2, frame_rate=2.0)
  c.evals.pairs.batches = seen | dict(split="test", fields=("video", "audio"))
  c.optim = dict(name="adam", lr=1e-4, wd=1e-5, schedule="constant")
  if arg.runlocal or arg.generated:
    c.input.audio_hz = task["audio_hz"] = 16_000
    c.optim = dict(name="adam", lr=1e-3, wd=1e-5, warmup=0.05, schedule="cosine")
    probes(c, seen)
    if embeds is not None:
      fields = dict(split="test", fields=("video", "audio", "label"))
      c.evals.ndcg = dict(
        evaluator="ndcg", batches=seen | fields, outputs=embeds, labels=LABELS[:2]
      )
  if not arg.runlocal:
    c.total_steps = 1_000 if arg.generated else 500_000
  c.tasks = dict(avc=task)
  if arg.random:
    common.untrained(c)
  return c


def has_boxes(c):
  """Whether the data say where the sounding thing is: generated clips do."""
  return c.input.dir.startswith(("runs/", "synthetic/"))
