"""Stand-ins for VideoBERT, CBT and BERT: tokens of real features, and plain text.

The tokens come the way users' do: mp4s are generated and prepared, an S3D (the smallest
one, untrained) sees windows of 1.5 s, and hierarchical k-means clusters its features.
"""

import json
import pathlib
import shutil
import tempfile

import numpy as np

from data_pipelines.prepare import narrated
from data_pipelines.prepare import text as text_lib
from data_pipelines.synthetic import corpus, speech, world

RATE_HZ, WINDOW = 8.0, 4  # frames of a window: several fit into four seconds
BRANCHING, DEPTH = 4, 2


def segments(out: pathlib.Path) -> None:
  """24 clips for training, 8 held out: features of width 16, vocab.txt, tree.npz."""
  with tempfile.TemporaryDirectory() as folder:
    clips, shards = pathlib.Path(folder) / "clips", pathlib.Path(folder) / "shards"
    sizes = dict(num_clips=24, num_val=0, num_test=8, num_long=0)
    corpus.generate(clips, **sizes, seed=0, audio=False, processes=1)
    given = dict(size=48, rate_hz=RATE_HZ, audio=False, vocab="wordpiece")
    info = narrated.prepare(clips, shards, quiet=True, **given)
    _extract(shards, out, info)
    shutil.copyfile(shards / "vocab.txt", out / "vocab.txt")


def _extract(shards, out, info):
  import jax

  from data_pipelines import batches, feature_shards
  from vlp_jax import batch, kmeans, resolve
  from vlp_jax.evaluators import collect

  config = dict(name="mil_nce", variant="mu", bn_momentum=0.9)
  model = resolve.model(config, inject={"vocab_size": 8})
  variables = jax.jit(model.init)(jax.random.key(0), batch.zeros(model.spec()))
  outputs = ("video_features", "example_id")

  def apply(variables, rows, *, train=False, method=None, **_):
    return model.apply(variables, rows, train=train, method=method), {}

  run = collect.Forward(apply, outputs, method="encode_video")
  forward = lambda rows: tuple(run(variables, rows)[k] for k in outputs)
  spec = dict(task="clip_windows", dir=str(shards), rows=16, num_frames=WINDOW)
  spec |= dict(stride=WINDOW, frame_rate=RATE_HZ, size=48)
  span = dict(window_s=WINDOW / RATE_HZ, stride_s=WINDOW / RATE_HZ)
  splits = {
    name: feature_shards.Split(
      batches.evaluation(spec | {"split": name}, vocab=None), forward, **span
    )
    for name in ("train", "test")
  }
  kept = {k: info[k] for k in ("name", "licence", "classes", "vocab") if k in info}
  settings = dict(dataset="segments")
  feature_shards.write(out, splits, info=kept, settings=settings, quiet=True)
  made = list(splits["train"].features(0).values())
  given = dict(branching=BRANCHING, depth=DEPTH, passes=4, batch=32)
  kmeans.fit(made, **given).tree.save(out / "tree.npz")


def text(out: pathlib.Path) -> None:
  """200 documents: the captions of a thing, and what is said while it moves."""
  rng = np.random.default_rng(0)
  pool = world.combos(0)["train"]
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder) / "clips.jsonl"
    with source.open("w", encoding="utf-8") as f:
      for k in range(200):
        combo = pool[k % len(pool)]
        said = speech.narrations(combo, rng, start=0.0, end=8.0)
        sentences = [*speech.captions(combo, rng), *(s["text"] for s in said)]
        f.write(json.dumps({"sentences": sentences}) + "\n")
    text_lib.prepare(source, out, vocab_size=400, quiet=True)
