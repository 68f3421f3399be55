"""Spoken digits and the words that name them in one space, for a speaker never heard.

Command:  python -m launch.spoken_digits --experiment words --source FSDD.zip
            --workdir DIR --seed 0
          which leaves out each of the six speakers in turn; one of them is
          python -m launch.train --config configs/speech/words.py:held=2 --workdir DIR
Data:     as `configs/speech/unlabelled.py`; `vocab.txt` holds the ten words.
Recipe:   views of the sounds of five speakers against their words, a softmax in both
          directions in which all recordings of a word are its positives.
Expected: see the README; the spectrogram alone is the baseline of the command.
"""

import ml_collections

from configs import common
from configs.speech import unlabelled


def get_config(arg=None):
  arg = common.parse_arg(arg, held=0, steps=1_000, runlocal=False)
  seen = [s for s in unlabelled.SPEAKERS if s != arg.held]
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, arg.steps
  c.model = dict(name="audio_text", variant="word")
  c.vocab = dict(name="words", file="data/fsdd/vocab.txt")
  c.tasks = dict(words=dict(objective="contrastive:ego", tags=("label",), tau=0.1))
  c.tasks.words.update(streams=("audio", "text"), views=unlabelled.VIEWS)
  c.input = dict(task="sounds", dir="data/fsdd", split="all", rows=64, seconds=1.0)
  c.input.update(text="caption", max_words=4, num_classes=10, where=dict(speaker=seen))
  held = dict(where=dict(speaker=arg.held))
  c.evals = dict(words=dict(evaluator="retrieval", texts=held))
  c.evals.words.update(videos=held | dict(text="none"), distinct=True, ks=(1,))
  c.evals.words.update(methods=("encode_text", "encode_audio"), names=("t2a", "a2t"))
  c.evals.words.outputs = ("text_embed", "audio_embed")
  c.optim = dict(name="adamw", lr=2e-3, warmup=100, schedule="cosine", clip=1.0)
  c.optim.update(wd=1e-3, ema=0.99)
  c.log_every, c.checkpoint = 50, dict(every=500, keep_last=1)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    unlabelled.on_generated_sounds(c)
    c.vocab.file = "synthetic/spoken/vocab.txt"
  return c
