"""MIL-NCE on generated clips: narrations that miss what is shown, and little data.

Command:  python -m launch.narrated --experiment misaligned --workdir runs/narrated
            --seed 0,1,2
          makes clips whose narrations come up to 0, 2, 4 and 8 s too early or late, and
          trains this config with MIL-NCE (four candidates a clip) and with the
          max-margin loss of HowTo100M (the nearest narration); `--experiment amount`
          trains on 150, 600 and 2,400 clips, `--experiment steps` finds the steps of
          longer videos by their names. One of the runs alone is
          python -m launch.train --config configs/mil_nce/generated.py:misalignment=4
            --workdir DIR
          (`:loss=max_margin`, `:clips=150`, `:runlocal`)
Data:     clips of 32 x 32 pixels; the test is retrieval of clips by captions, which say
          what is shown, whatever the narrations of training did.
Expected: see the README.
"""

import ml_collections

from configs import common

LOSSES = {
  "mil_nce": dict(objective="contrastive:mil_nce"),
  "max_margin": dict(
    objective="ranking:max_margin", streams=("video", "text"), normalise=True
  ),
}


def get_config(arg=None):
  given = dict(misalignment=2, loss="mil_nce", clips=600, root="runs/narrated")
  arg = common.parse_arg(arg, steps=600, runlocal=False, **given)
  if arg.loss not in LOSSES:
    raise ValueError(f"loss={arg.loss!r}; give one of {tuple(LOSSES)}.")
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, arg.steps
  at = f"{arg.root}/{arg.misalignment}s/shards"
  c.vocab = dict(name="words", file=f"{at}/vocab.txt")
  c.model = dict(name="mil_nce", variant="quick")
  c.tasks = dict(narrations=LOSSES[arg.loss])
  c.input = dict(task="narrated_clips", dir=at, split="train", rows=32)
  c.input.update(num_frames=8, frame_rate=3.0, size=32, pad=4, max_words=16)
  c.input.candidates = 4 if arg.loss == "mil_nce" else 1
  c.input.where = dict(record=dict(below=arg.clips))
  c.optim = dict(name="adamw", lr=3e-3, warmup=0.1, schedule="cosine")
  c.optim.update(clip=5.0, wd=1e-2)
  c.log_every, c.checkpoint = 20, dict(every=200, keep_last=1)
  texts = dict(fields=("label",), text="caption", split="test", where={})
  videos = dict(fields=("video", "label"), text="none", split="test", where={})
  c.evals = dict(retrieval=dict(evaluator="retrieval", texts=texts, videos=videos))
  c.evals.retrieval.normalise = arg.loss == "max_margin"
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.total_steps, c.log_every, c.checkpoint.every = "mu", 2, 1, 2
    c.vocab.file, c.input.dir = "synthetic/narrated/vocab.txt", "synthetic/narrated"
    c.input.rows = 8
  return c
