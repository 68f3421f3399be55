"""MIL-NCE's zero-shot retrieval on YouCook2: 3,350 validation clips (arXiv 1912.06430).

Command:  python -m launch.eval --config configs/mil_nce/youcook2.py --workdir DIR
            --checkpoint X
          (X: a workdir, or the released weights through launch.convert; `:code` samples
          as the training repository does; `:runlocal` for generated clips)
Data:     python -m data_pipelines.prepare clips --format youcook2
            --source validation_youcook.csv --videos VIDEOS --rate_hz 10 --size 224
            --least_s 3.3 --no_audio --out data/youcook2
          Keep the JPEG quality of 95: at the default of most tools R@1 falls to 10.6.
Protocol: 4 windows of 32 frames at 10 Hz (`:code`: 16 at 5 Hz), evenly from the first
          to the last place in the clip; short side 224, central square; embeddings of
          windows averaged; products of embeddings as they are; every caption ranks all
          clips.
Paper:    R@1/5/10 and median rank 15.1/38.0/51.2/10 (S3D-G), 11.4/30.6/42.0/16 (I3D);
          the released weights on the videos still to be had 15.98/38.2/50.1/10; batch
          512 in the training repository 8.6/21.5/28.6/36.
"""

from configs import common as args
from configs.mil_nce import common


def get_config(arg=None):
  arg = args.parse_arg(arg, code=False, windows=4, runlocal=False)
  c = common.config("data/youcook2", "val", code=arg.code, windows=arg.windows)
  return common.runlocal(c) if arg.runlocal else c
