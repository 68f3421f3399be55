"""The HowTo100M embedding's retrieval without fine-tuning (arXiv 1906.03327).

Command:  python -m launch.eval --config configs/howto100m/retrieval.py --workdir DIR
            --checkpoint X
          (X: a workdir, or the released weights through launch.convert; `:data=msrvtt`
          and `:data=lsmdc` for the other sets; `:runlocal` for generated clips)
Data:     python -m data_pipelines.prepare clip_features --format youcook2
            --source validation_youcook.csv --features 2D/,3D/ --rates 1.0,1.5
            --vocab_file data/howto100m_features/vocab.txt --out data/youcook2_features
          and likewise with --format msrvtt, lsmdc; features as for pretrain.py.
Protocol: a clip is the maximum of its features, a caption its first 20 known words;
          every caption ranks all clips: 3,350 of YouCook2's validation set, 1,000 of
          MSR-VTT's 1k-A and of LSMDC's test set.
Paper:    R@1/5/10 and median rank 6.1/17.3/24.8/46 (YouCook2), 7.5/21.2/29.6/38
          (MSR-VTT), 4.0/9.8/14.0/137 (LSMDC).
"""

import ml_collections

from configs import common

SPLITS = dict(youcook2="val", msrvtt="test", lsmdc="test")


def get_config(arg=None):
  arg = common.parse_arg(arg, data="youcook2", runlocal=False)
  if arg.data not in SPLITS:
    raise ValueError(f"data is {arg.data!r}; known: {', '.join(SPLITS)}.")
  c = ml_collections.ConfigDict()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.input = dict(task="clip_features", dir=f"data/{arg.data}_features")
  c.input.update(split=SPLITS[arg.data], unit="clip", max_words=20, rows=256)
  c.evals = dict(
    retrieval=dict(evaluator="retrieval", texts=dict(text="caption"), videos=dict())
  )
  if arg.runlocal:
    c.input.update(dir="synthetic/clip_features", split="test", rows=8)
  return c
