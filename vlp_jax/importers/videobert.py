"""VideoBERT's start: a BERT checkpoint, and the centroids of a k-means tree.

`init_from = dict(path=BERT, importer="videobert", tokens=TREE)` fills everything that
BERT has ([>] is a new word, the alignment starts from the next sentence head) and the
table of video tokens. With path=TREE alone, only that table is filled.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlp_jax.formats import read as read_lib
from vlp_jax.importers import Report, Source, finish, shapes
from vlp_jax.importers import bert as importer
from vlp_jax.importers import bert_layers as bert

SCALES = ("none", "words")
_LEVEL = re.compile(r"centroids_\d+$")


def convert(
  arrays: Mapping[str, np.ndarray],
  model,
  *,
  tokens: str = "",
  scale: str = "none",
  trees: Mapping[str, Any] | None = None,
) -> tuple[dict, Report]:
  """Parameters of `models.videobert.Model`.

  Args:
    arrays: of a BERT checkpoint in any spelling of `importers.bert`, or those of a
      k-means tree (`launch.cluster`), or a bare table as `centroids`.
    tokens: path of the tree when `arrays` are BERT's; without it the table of video
      tokens stays as initialised.
    scale: "none" takes the centroids as they are (paper); "words" centres them and
      scales them to the standard deviation of BERT's words, 0.02 without BERT: features
      after a ReLU are large and share one direction.
    trees: by name, of the run's inputs (given by `evaluate.init_from`): the tokens must
      be theirs. A bare table does not say whose it is.
  Raises: ValueError when centroids and model differ in number or width; CheckpointError
    for centroids of another tree.
  """
  if scale not in SCALES:
    raise ValueError(f"scale={scale!r}; one of {SCALES}.")
  want, notes, flat = shapes(model), [], {}
  leaves, table = arrays, centroids(arrays)
  if table is None:
    source = importer.read(arrays)
    flat = _bert(source, want, model, notes)
    if tokens:
      leaves = read_lib.read(tokens)
      table = centroids(leaves)
      if table is None:
        raise ValueError(f"{tokens} holds no tree: it has no centroids.")
    may_miss = [r"project/", r"mlm_head/token_bias$"]
    may_miss += [] if tokens else [r"video_tokens$"]
    if not source.has("bert.pooler."):
      may_miss.append(r"pooler/")
    if not source.has(f"{importer.NSP}."):
      may_miss.append(r"align_head/")
    if not source.has(f"{importer.MLM}."):
      may_miss.append(r"mlm_head/")
  else:
    source, may_miss = Source({}), [r"(?!video_tokens$)"]
  if table is not None:
    if table.shape != want["video_tokens"]:
      raise ValueError(
        f"the tree has {len(table)} leaves of width {table.shape[1]}; the model has "
        f"num_tokens, token_dim = {want['video_tokens']}. Set them to the tree's."
      )
    for tree in (trees or {}).values() if "digest" in leaves else ():
      tree.expect(np.asarray(leaves["digest"]).tobytes().hex(), "init_from")
    if scale == "words":
      words = flat.get("embed_text/words")
      spread = 0.02 if words is None else float(words.std())
      table = table - table.mean(axis=0)
      table = table * (spread / max(float(table.std()), 1e-12))
      notes.append(f"video tokens: centred, standard deviation {spread:.4g}")
    flat["video_tokens"] = table.astype(np.float32)
  return finish(
    flat,
    want,
    source,
    reshaped=[k for k in flat if k.endswith("kernel") or "/layers/" in k],
    surgery=notes,
    may_miss=may_miss,
  )


def _bert(source, want, model, notes):
  flat = bert.under("embed_text", importer.tables(source, want, "embed_text", notes))
  flat |= bert.under("encoder/stack", importer.encoder(source, model))
  if source.has("bert.pooler."):
    flat |= bert.under("pooler/dense", bert.linear(source, "bert.pooler.dense"))
  if source.has(f"{importer.MLM}."):
    inner = f"{importer.MLM}.transform"
    found = bert.transform(source, f"{inner}.dense", f"{inner}.LayerNorm")
    flat |= bert.under("mlm_head/transform", found)
    flat["mlm_head/bias"] = source.take(f"{importer.MLM}.bias")
  if source.has(f"{importer.NSP}."):
    flat |= bert.under("align_head/dense", bert.linear(source, importer.NSP))
  return flat


def centroids(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
  """The leaves [K, F] of a tree's arrays, in the order of their token ids.

  Known: a tree of `vlp_jax.cluster_tree`, whose last level holds the leaves as
  `centroids_<depth - 1>` [k, ..., k, F], and a bare table `centroids` [K, F]. None
  where there is neither.
  """
  names = [k for k in arrays if k == "centroids" or _LEVEL.match(k)]
  if not names:
    return None
  last = np.asarray(arrays[max(names, key=lambda k: (len(k), k))], np.float32)
  return last.reshape(-1, last.shape[-1])
