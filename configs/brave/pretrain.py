"""BraVe on AudioSet: 16 frames of video against 10 s of sound (arXiv 2103.16559).

Command:  python -m launch.train --config configs/brave/pretrain.py --workdir DIR
          (`:views=video` for a broad view of 64 frames, `both`; `:x2` for TSM-50x2,
          with heads of their own; `:as_released` for the optimiser as the released code
          has it; `:runlocal` takes two steps of tiny networks on generated clips)
Small:    `:generated` trains a small one in minutes on generated clips, made as in
          configs/audio_visual/l3.py; `:generated,random` probes random weights. Their
          figures are in the README.
Data:     `python -m data_pipelines.prepare clips --audio_hz 48000 --rate_hz 12.5`
          writes data/audioset/.
Cost:     16 frames of 224 x 224 and 1,024 x 80 log-mel, global batch 512, 300k steps.
Paper:    HMDB51 / UCF101 linear, K600: 69.4 / 93.0 / 70.6 (sound), 65.4 / 92.6 / 70.8
          (video alone), 69.2 / 92.9 / 69.3 and 69.9 / 93.2 / 70.3 (sound and flow,
          TSM-50 and x2).
Optimiser: LARS leaves biases and norms without decay and trust ratio, and the predictor
          learns ten times as fast. The released code hands its mask over the other way
          round, so that there all matrices learn by plain Nesterov momentum at rate 1
          without decay (10 in the predictor), and biases and norms have both.
"""

import ml_collections

from configs import common
from configs.audio_visual import common as audio_visual

SMALL = r"(^|/)bias$|(^|/)scale$"
PREDICTOR = r"(^|/)predictor/"


def get_config(arg=None):
  arg = common.parse_arg(
    arg,
    views="audio",
    x2=False,
    as_released=False,
    runlocal=False,
    generated=False,
    random=False,
  )
  broad = {
    "audio": ("audio",),
    "video": ("video_broad",),
    "both": ("video_broad", "audio"),
  }
  if arg.views not in broad:
    raise ValueError(f"views={arg.views!r}; give one of {tuple(broad)}.")
  video, audio = "video_broad" in broad[arg.views], "audio" in broad[arg.views]
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 300_000
  variant = "tsm_resnet_x2" if arg.x2 else "tsm_resnet"
  c.model = dict(name="brave", variant=variant, dtype="bfloat16")
  c.model.broad = broad[arg.views]
  c.tasks = dict(brave=dict(objective="brave:brave", broad_stride=2 if video else 0))
  c.input = dict(
    task="narrated_clips",
    dir="data/audioset",
    split="train",
    rows=512,
    fields=("video", "audio") if audio else ("video",),
    text="none",
    num_frames=128 if video else 16,  # 10.24 s, every second one for the broad view
    frame_rate=12.5,
    size=256,  # of what the views are cut from
    short="loop",
  )
  if audio:
    c.input.update(audio_hz=48_000, audio_s=10.24)
  plain, ten = dict(trust=None, wd=0.0), dict(lr_scale=10.0)
  c.optim = dict(name="lars", lr=1.0, schedule="cosine", warmup=5_000)
  c.optim.update(momentum=0.9, nesterov=True, wd=1e-2)
  if arg.as_released:
    c.optim.groups = ((SMALL, {}), (PREDICTOR, plain | ten), (r".*", plain))
  else:
    small = PREDICTOR + r".*(bias|scale)$"
    c.optim.groups = ((small, plain | ten), (PREDICTOR, ten))
    c.optim.groups += ((SMALL, plain), (r".*", {}))
  c.log_every, c.checkpoint = 50, dict(every=1_000, keep_last=3)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.model.variant, c.model.dtype = "mu", "float32"
    c.total_steps, c.optim.warmup, c.log_every = 2, 1, 1
    c.checkpoint.every = 2
    c.input.update(dir="synthetic/narrated", rows=8, frame_rate=4.0, size=48)
    c.input.num_frames = 8 if video else 4
    if audio:
      c.input.update(audio_hz=16_000, audio_s=2.0)
    view = dict(size=32, crop={}, flip={}, jitter={}, grey={}, blur=dict(p=1.0))
    c.tasks.brave.update(narrow=view, narrow_frames=4)
    c.tasks.brave.broad = view | dict(size=16, convolve={})
  elif arg.generated:
    _small(c, video=video)
  if arg.random:
    common.untrained(c)
  return c


def _small(c, *, video):
  """Small towers on 1,200 generated clips, minutes on a laptop."""
  c.model.variant, c.model.dtype = "small", "float32"
  c.total_steps, c.log_every, c.checkpoint.every = 300, 10, 100
  c.input.update(dir="runs/audio_visual/shards", rows=32, frame_rate=5.0, size=64)
  c.input.num_frames = 16 if video else 8
  if "audio" in c.input.fields:
    c.input.update(audio_hz=16_000, audio_s=3.2)
  view = dict(size=48, crop=dict(area=(0.5, 1.0)), flip=None)
  view["jitter"] = dict(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02, p=0.8)
  c.tasks.brave.update(narrow=view, narrow_frames=8)
  c.tasks.brave.broad = view | dict(size=40)
  c.optim.update(lr=0.4, warmup=20, wd=1e-3)
  seen = dict(num_frames=8, frame_rate=5.0, size=48)
  audio_visual.probes(c, seen)
  if "audio" not in c.input.fields:
    del c.evals["probe_audio"]
