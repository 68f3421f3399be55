"""AVTS: sound and picture in step, first easy negatives, then hard ones too
(arXiv 1807.00230).

Command:  python -m launch.train --config configs/audio_visual/avts.py --workdir DIR
          (`:variant=r2plus1d` for R(2+1)D-18; the curriculum is
          `:hard_start_epoch=50,hard_fraction=0.25,min_gap_seconds=0.5`; `:runlocal`
          takes four steps of a tiny net, the third of them hard;
          `:generated` trains a small one on generated clips in minutes, made as in
          configs/audio_visual/l3.py, with
          `:generated,random` for random weights)
Data:     Kinetics (230k clips of 10 s) as narrated clips: `prepare narrated --size 128
          --rate_hz 25 --audio_hz 16000`.
Cost:     25 frames of 112 x 112 and one second of sound, out of four seconds; global
          batch 256, 90 epochs of 898 steps.
Paper:    fine-tuned UCF101 / HMDB51 84.1 / 52.5 (MC3, Kinetics), 86.2 / 52.3 (R(2+1)D);
          ESC-50 80.6 (AudioSet); from memory: easy negatives for 50 epochs, then a
          quarter hard for 40. Clip length, size, rates and batch are ours.
In a step all wrong sounds are of one kind; `hard_fraction` of the steps from
`hard_start_epoch` on are hard. Rows of both kinds in each batch: the objective's own
`hard_fraction`.
"""

from configs import common as base
from configs.audio_visual import common


def get_config(arg=None):
  arg = base.parse_arg(
    arg,
    variant="mc3",
    hard_start_epoch=50,
    hard_fraction=0.25,
    min_gap_seconds=0.5,
    runlocal=False,
    generated=False,
    random=False,
  )
  both = ("video_embed", "audio_embed")
  variants = (arg.variant, "small", "mu")
  c = common.config(arg, variants, dir="data/kinetics", outputs=both)
  c.model.name = "avts"
  epochs, steps, frames, hz, seconds = 90, 898, 25, 25.0, 4
  c.input.update(size=112, audio_hz=16_000)
  c.optim = dict(name="sgd", lr=1e-2, momentum=0.9, wd=1e-4, warmup=898)
  c.optim.update(schedule="step", boundaries=(0.6, 0.85))
  start = arg.hard_start_epoch * steps
  if arg.generated or arg.runlocal:
    frames, hz = 8, 8.0
    epochs, steps = 1, 400  # 1,200 clips are 37 steps
    start = 250
    c.input.size = 40
    c.optim = dict(name="adam", lr=1e-3, wd=1e-5, warmup=0.05, schedule="cosine")
  if arg.runlocal:
    steps, start, c.input.size = 4, 2, 32
    arg.hard_fraction = 0.5  # the third step is hard
  c.total_steps = epochs * steps
  c.input.update(num_frames=round(seconds * hz), frame_rate=hz)
  task = dict(objective="synchronisation:avts", clip_frames=frames, audio_hz=16_000)
  hard = dict(hard_fraction=1.0, min_gap_seconds=arg.min_gap_seconds)
  c.tasks = dict(
    easy=task | dict(weight=max(1 - arg.hard_fraction, 1e-9)),
    hard=task | hard | dict(weight=arg.hard_fraction, start=start),
  )
  # The two ends of a clip: three seconds between their beginnings in generated clips.
  seen = dict(num_frames=frames, frame_rate=hz)
  c.evals.pairs.batches = seen | dict(split="test", fields=("video", "audio"))
  c.evals.moments = dict(
    evaluator="correspondence",
    outputs=both,
    negatives="hard",
    batches=c.evals.pairs.batches.to_dict() | dict(windows=2),
  )
  if arg.generated or arg.runlocal:
    common.probes(c, seen)
  if arg.random:
    base.untrained(c)
  return c
