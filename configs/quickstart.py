"""MIL-NCE in minutes: 600 generated narrated clips as mp4, held-out combinations.

Command:  bash launch/quickstart.sh            (about six minutes on two CPU cores)
          bash launch/quickstart.sh --config configs/quickstart.py:long   (half an hour)
          bash launch/quickstart.sh --config configs/quickstart.py:fac    (12 minutes)
Expected: see the table of the README; `colour` is the baseline whose video tower sees a
          colour histogram and nothing else, trained with the same loss.
The system is that of configs/mil_nce/howto100m.py with fewer, narrower stages; `:fac`
is that of configs/mmv/fac.py, with the clips' sound: retrieval between any two of
video, sound and words, and probes on video and on sound.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, long=False, colour=False, fac=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 2_400 if arg.long else 340
  c.vocab = dict(name="words", file="runs/quickstart/shards/vocab.txt")
  c.model = dict(name="mil_nce", variant="quick", video="s3d")
  c.tasks = dict(mil_nce=dict(objective="contrastive:mil_nce", weight=1.0))
  c.input = dict(
    task="narrated_clips",
    dir="runs/quickstart/shards",
    split="train",
    rows=32,
    num_frames=16,
    frame_rate=5.0,
    size=64,
    pad=8,  # crops that reach beyond the frame: 600 clips are soon known by heart
    candidates=4,
    max_words=16,
  )
  c.optim = dict(
    name="adamw", lr=3e-3, warmup=0.1, schedule="cosine", clip=5.0, wd=1e-2
  )
  c.tensorboard = True
  c.log_every, c.checkpoint = 10, dict(every=40, keep_last=2)
  video = dict(fields=("video", "label"), text="none")
  train, test = video | dict(split="train"), video | dict(split="test")
  shuffled = dict(shuffle_frames=True)
  c.evals = dict(
    retrieval=dict(
      evaluator="retrieval",
      texts=dict(fields=("label",), text="caption", split="test"),
      videos=test,
    )
  )
  if arg.colour:
    c.model.video, c.total_steps = "colour_histogram", 340
    c.input.num_frames, c.input.frame_rate = 4, 1.25
  else:
    c.evals.probe = dict(
      evaluator="linear_probe",
      train=train,
      test=test,
      control_train=train | shuffled,
      control_test=test | shuffled,
      cs=(0.01, 0.1),
      folds=3,
    )
    if arg.fac:
      _fac(c, long=arg.long)
  return c


def _fac(c, *, long):
  """MMV over picture, sound and words instead of MIL-NCE."""
  c.total_steps = 2_400 if long else 700
  c.model = dict(name="mmv", variant="small", graph="fac")
  c.tasks = dict(mmv=dict(objective="mmv:mmv", weight=1.0))
  c.input.fields, c.input.audio_hz = ("video", "audio"), 16_000
  c.optim.lr = 2e-3
  c.evals.retrieval.normalise = True
  silent = dict(fields=("video", "label"), text="none", split="test")
  heard = dict(fields=("audio", "label"), text="none", split="test")
  told = dict(fields=("label",), text="caption", split="test")
  pair = dict(evaluator="retrieval", normalise=True, num_examples=0)
  c.evals.audio_video = dict(
    **pair,
    texts=heard,
    videos=silent,
    names=("a2v", "v2a"),
    methods=("encode_audio", "encode_video"),
    outputs=("audio_embed", "video_embed_audio"),
  )
  # No loss compares words and sound: the way leads through the space of the video.
  c.evals.text_audio = dict(
    **pair,
    texts=told,
    videos=heard,
    names=("t2a", "a2t"),
    methods=("encode_text", "encode_audio"),
    outputs=("text_embed", "audio_embed_text"),
  )
  c.evals.probe_audio = dict(
    evaluator="linear_probe",
    train=heard | dict(split="train"),
    test=heard,
    method="encode_audio",
    output="audio_features",
    cs=(0.01, 0.1),
    folds=3,
  )
