"""A captioner of generated clips that learns on two CPU cores: S3D and the decoder.

Command:  python -m data_pipelines.synthetic --out runs/captions/clips --num_clips 600
          python -m data_pipelines.prepare narrated --source runs/captions/clips \\
            --out runs/captions/shards --vocab wordpiece --rate_hz 10 --no_audio
          python -m launch.train --config configs/captioning/generated.py \\
            --workdir runs/captions/run
          (`:features` reads features of a trained tower, as of `bash
          launch/quickstart.sh` and then `python -m launch.extract --config
          configs/quickstart.py --checkpoint runs/quickstart --data runs/captions/shards
          --window_s 3.2 --stride_s 0.8 --frame_rate 5 --out runs/captions/features`;
          `:runlocal` takes steps of a tiny net on a stand-in);
          `python -m launch.narrated --experiment captions --workdir runs/narrated` does
          all of the latter, with a network trained on the clips' narrations
Cost:     clips of 16 frames of 64 pixels, 32 a step, as in the quickstart: about a
          second a step on two cores; `:features` a tenth of that.
Expected: CIDEr-D of `caption` above that of `copied`, the caption of the nearest
          training clip: the test clips show combinations of shape, colour and action
          that no training clip shows, so that no training caption is right.
"""

import ml_collections

from configs import common


def get_config(arg=None):
  arg = common.parse_arg(arg, features=False, runlocal=False)
  c = ml_collections.ConfigDict()
  c.seed, c.total_steps = 0, 2_000 if arg.features else 800
  c.vocab = dict(name="wordpiece", file="runs/captions/shards/vocab.txt")
  c.model = dict(name="captioner", variant="small", encoder="s3d", no_repeat=4)
  c.tasks = dict(caption=dict(objective="caption:caption", smoothing=0.1))
  c.input = dict(task="narrated_clips", dir="runs/captions/shards", split="train")
  c.input.update(rows=32, text="caption", max_words=24, fields=("video",))
  if arg.features:
    c.model.update(encoder="features", feature_dim=256)
    c.input = dict(task="clip_features", dir="runs/captions/features", split="train")
    c.input.update(rows=64, text="caption", max_words=24, unit="seconds", max_seconds=4)
  else:
    c.input.update(num_frames=16, frame_rate=5.0, size=64, pad=8)
  test, scored = dict(split="test"), dict(stream="text", item="relevance")
  c.evals = dict(
    loss=dict(evaluator="loss", batches=test),
    caption=dict(evaluator="caption", batches=test, **scored),
    copied=dict(
      evaluator="caption_retrieval", train=dict(split="train"), test=test, **scored
    ),
  )
  if arg.features:
    c.evals.copied.feature = "clips_features"
  c.optim = dict(name="adamw", lr=1e-3, warmup=0.1, schedule="cosine", clip=1.0)
  c.optim.groups = ((r"bias$|norm|scale$", dict(wd=0.0)), (r".*", dict(wd=1e-2)))
  # N(0, 0.02) is made for a width of 768; here it is 128.
  c.init_scale = ((r"(decoder|clips)/.*kernel$", 4.0),)
  c.tensorboard = True
  c.log_every, c.checkpoint = 20, dict(every=200, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.vocab.file = "synthetic/segments/vocab.txt"
    c.model.variant = "mu"
    if arg.features:
      c.model.feature_dim = 144
      c.input.update(dir="synthetic/clip_features", rows=8, max_words=16)
    else:
      c.input.update(dir="synthetic/narrated", rows=4, num_frames=8, size=32, pad=0)
      c.input.update(frame_rate=2.0, max_words=16)
  return c
