"""RareAct: unusual interactions by their words alone (arXiv 2008.01018).

Command:  python -m launch.eval --config configs/mil_nce/rareact.py --workdir DIR
            --checkpoint X      (`:code` and `:runlocal` as for YouCook2)
Data:     python -m data_pipelines.prepare clips --format rareact --source rareact.csv
            --videos VIDEOS --rate_hz 10 --size 224 --no_audio --out data/rareact
Protocol: 7,607 rated segments, 149 classes "verb noun"; windows as on YouCook2; each
          class ranks the segments rated for it, as in the published scores: `mwap`, in
          which a video weighs one, and `msap`, the mean of 100 draws of one segment a
          video; `map`, in which every segment counts once, is ours.
Paper:    mWAP 30.5, mSAP 34.8 of the released S3D-G.
"""

from configs import common as args
from configs.mil_nce import common


def get_config(arg=None):
  arg = args.parse_arg(arg, code=False, windows=4, runlocal=False)
  c = common.config("data/rareact", "test", code=arg.code, windows=arg.windows)
  given = common.videos(code=arg.code, windows=arg.windows)
  given = {k: v for k, v in given.items() if k not in ("fields", "text")}
  c.input.task = "zero_shot_clips"
  c.evals = dict(
    rareact=dict(
      evaluator="segments:ZeroShot",
      texts=dict(unit="class"),
      videos=dict(unit="clip") | given,
    )
  )
  return common.runlocal(c) if arg.runlocal else c
