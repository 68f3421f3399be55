"""What MIL-NCE's evaluations share: windows of a clip, averaged, and texts."""

import ml_collections


def config(data: str, split: str, *, code: bool, windows: int):
  """Text-video retrieval of one set on the weights of a checkpoint.

  Args:
    code: as the training repository samples: 16 frames at 5 Hz, the last window ending
      0.4 s before the clip does, 30 words. Else 32 frames at 10 Hz and 16 words, as the
      released numbers are reached.
  """
  c = ml_collections.ConfigDict()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.input = dict(task="narrated_clips", dir=data, split=split, rows=32, size=224)
  c.input.max_words = 30 if code else 16
  c.evals = dict(retrieval=dict(evaluator="retrieval"))
  c.evals.retrieval.texts = dict(fields=(), text="caption")
  c.evals.retrieval.videos = videos(code=code, windows=windows)
  return c


def videos(*, code: bool, windows: int) -> dict:
  """Windows of clips, each a row; evaluators average those of a clip."""
  given = dict(fields=("video",), text="none", windows=windows)
  if code:
    return given | dict(num_frames=16, frame_rate=5.0, margin_s=0.4)
  return given | dict(num_frames=32, frame_rate=10.0)


def runlocal(c):
  """On generated clips, for a small checkpoint."""
  c.input.update(dir="synthetic/narrated", split="test", rows=8, size=32)
  for given in c.evals.values():
    for part in given.values():
      if isinstance(part, ml_collections.ConfigDict) and "num_frames" in part:
        part.update(num_frames=8, frame_rate=4.0)
  return c
