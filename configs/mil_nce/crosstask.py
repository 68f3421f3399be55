"""CrossTask's steps found by their names with MIL-NCE (arXiv 1903.08225, 1912.06430).

Command:  python -m launch.extract --config configs/mil_nce/howto100m.py --checkpoint X
            --data data/crosstask_clips --output video_embed --frame_rate 10
            --window_s 3.2 --stride_s 1 --out data/crosstask_s3d
          python -m launch.eval --config configs/mil_nce/crosstask.py --workdir DIR
            --checkpoint X
Data:     python -m data_pipelines.prepare clips --format crosstask --source CROSSTASK
            --videos VIDEOS --rate_hz 10 --size 224 --clip_s 0 --no_audio
            --out data/crosstask_clips
Protocol: that of configs/howto100m/crosstask.py; a second is embedded as the window of
          3.2 s about its middle. No code of it was released: it is ours.
Paper:    mean recall 40.5 (S3D-G), 36.4 (I3D); HowTo100M 33.6.
"""

import ml_collections


def get_config(arg=None):
  if arg:
    raise ValueError(f"config argument {arg!r}; there are none.")
  c = ml_collections.ConfigDict()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.input = dict(task="moments", dir="data/crosstask_s3d", split="test", rows=8)
  c.input.max_words = 16
  c.evals = dict(
    steps=dict(
      evaluator="localize",
      videos=dict(labels="steps", max_clips=1024, lead_s=1.0),
      steps=dict(unit="step", rows=64),
      methods=(None, "encode_text"),
      outputs=("clips_features", "text_embed"),
    )
  )
  return c
