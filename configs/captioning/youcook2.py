"""Captions of YouCook2's segments by UniVL's decoder (arXiv 2002.06353), video alone.

Command:  python -m data_pipelines.prepare clip_features --format youcook2 \\
            --source ANNOTATIONS --features S3D/ --rates 1.0 --out data/youcook2_s3d
          python -m launch.train --config configs/captioning/youcook2.py --workdir DIR
          (`:variant=videobert`, or with `,s3d`, is the captioner of VideoBERT and CBT,
          on their features; `:runlocal` takes steps of a tiny net on features of
          generated clips)
Data:     S3D of MIL-NCE at 1/s, the first 96 of a segment; 128 word pieces. 9,776
          segments for training and 3,369 for evaluation, one reference each.
          `:variant=videobert` reads data/youcook2_videobert, prepared likewise of what
          `caption_features` of a VideoBERT gives (2 x 1,024; `s3d`: 3 x 1,024, "+S3D"
          in the table); the maximum over a segment's rows is its one vector.
Metrics:  UniVL's are nlg-eval's, on references that went through the tokeniser; those
          of `videobert` the COCO tools', on the annotated sentences.
Cost:     16 captions a step and five epochs: minutes on one accelerator.
Paper:    UniVL, pretrained on HowTo100M, video alone: BLEU-4 11.17, METEOR 17.69,
          ROUGE-L 40.49, CIDEr 1.2725 (whitespace tokens); UniViLM without pretraining
          8.67 / 15.38 / 35.18. VideoBERT 4.04 / 11.01 / 27.50 / 0.49, with S3D 4.33 /
          11.94 / 28.80 / 0.55; CBT 5.12 / 12.97 / 30.44 / 0.64. BLEU, METEOR and
          ROUGE-L times 100, CIDEr as it is.
`copied` scores the caption of the nearest training segment by the same features.
"""

import ml_collections

from configs import common

SEGMENTS = 9_776


def get_config(arg=None):
  arg = common.parse_arg(arg, variant="univl", s3d=False, runlocal=False)
  c = ml_collections.ConfigDict()
  published = arg.variant == "videobert"
  rows = 128 if published else 16
  c.seed, c.total_steps = 0, 40_000 if published else 5 * SEGMENTS // rows
  c.vocab = dict(name="wordpiece", file="data/bert-base-uncased-vocab.txt")
  c.model = dict(name="captioner", variant=arg.variant, dtype="bfloat16")
  c.model.update(encoder="features", beam=5, alpha=0.0)
  if arg.s3d:
    c.model.feature_dim = 3 * 1_024
  at = "data/youcook2_videobert" if published else "data/youcook2_s3d"
  c.tasks = dict(caption=dict(objective="caption:caption"))
  c.input = dict(task="clip_features", dir=at, split="train", text="caption")
  c.input.update(rows=rows, unit="clip" if published else "seconds", max_words=128)
  c.input.max_seconds = 96
  test = dict(split="val")
  scored = dict(stream="text", item="relevance", tokenizer="whitespace")
  if published:  # the COCO tools on captions as they were written
    scored = dict(references=f"{at}/val", item="relevance", tokenizer="ptb", join=True)
  c.evals = dict(
    loss=dict(evaluator="loss", batches=test),
    caption=dict(evaluator="caption", batches=test, **scored),
    copied=dict(
      evaluator="caption_retrieval",
      train=dict(split="train"),
      test=test,
      feature="clips_features",
      **scored,
    ),
  )
  if published:
    c.optim = dict(name="adam", lr=1e-3, schedule="linear", warmup=0)
  else:  # BertAdam: no bias correction, each parameter's gradient clipped by itself
    c.optim = dict(name="bert_adam", lr=3e-5, schedule="linear", warmup=0.1)
    c.optim.groups = (
      (r"bias$|norm|scale$", dict(wd=0.0)),
      (r".*", dict(wd=0.01)),
    )
  c.tensorboard = True
  c.log_every, c.checkpoint = 50, dict(every=500, keep_last=2)
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  if arg.runlocal:
    c.total_steps, c.log_every, c.checkpoint.every = 2, 1, 2
    c.vocab.file = "synthetic/segments/vocab.txt"
    c.model.update(variant="mu", dtype="float32", feature_dim=144)
    c.input.update(dir="synthetic/clip_features", rows=8, max_words=16, max_seconds=4)
    for entry in (c.evals.loss, c.evals.caption):
      entry.batches.split = "test"
    c.evals.copied.test.split = "test"
    if published:
      for entry in (c.evals.caption, c.evals.copied):
        entry.references = "synthetic/clip_features/test"
  return c
