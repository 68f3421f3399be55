"""MIL-NCE's zero-shot retrieval on MSR-VTT, the 1,000 clips of 1k-A (arXiv 1912.06430).

Command:  python -m launch.eval --config configs/mil_nce/msrvtt.py --workdir DIR
            --checkpoint X
          (`:code` and `:runlocal` as for YouCook2; `:choice` is the multiple choice of
          2,990 questions)
Data:     python -m data_pipelines.prepare clips --format msrvtt --source ANNOTATIONS
            --videos VIDEOS --rate_hz 10 --size 224 --clip_s 0 --no_audio
            --out data/msrvtt
          and for `:choice` --format msrvtt:multiple_choice, --out data/msrvtt_choice
Protocol: that of configs/mil_nce/youcook2.py; one caption a clip. Multiple choice: the
          most similar of five captions, by the same embeddings.
Paper:    R@1/5/10 and median rank 9.9/24.0/32.4/29.5 (S3D-G), 9.4/22.0/30.0/35 (I3D).
          Of multiple choice none is given; ActBERT has 85.7.
"""

from configs import common as args
from configs.mil_nce import common


def get_config(arg=None):
  arg = args.parse_arg(arg, code=False, windows=4, choice=False, runlocal=False)
  c = common.config("data/msrvtt", "test", code=arg.code, windows=arg.windows)
  if arg.choice:
    given = common.videos(code=arg.code, windows=arg.windows)
    given = {k: v for k, v in given.items() if k not in ("fields", "text")}
    given |= dict(task="zero_shot_clips", unit="choice")
    c.input.dir = "data/msrvtt_choice"
    c.evals = dict(choice=dict(evaluator="multiple_choice", batches=given))
  return common.runlocal(c) if arg.runlocal else c
