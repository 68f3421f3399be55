"""UNITER: one Transformer over words and image regions (arXiv 1909.11740).

Reads:   text_ids, _mask [B, L], and if given _types, _positions [B, L], _delta
         [B, L, D]; regions_features [B, R, Dr], _boxes [B, R, 7], _mask [B, R], and if
         given _types [B, R], _delta [B, R, Dr], regions_masked [B, R]; regions2_* the
         same for the second image of NLVR2; fuse_index [B, M] to compact text and
         regions; mlm_positions [B, P]; in packed rows text_segments [B, L],
         regions_segments [B, R], segment_starts [B, S].
Returns: text [B, L, D], regions [B, R, D] (0 at padding), pooled [B, D], and of the
         `heads`: mlm_logits [B, P, V], mrfr [B, R, Dr], mrc_logits [B, R, C],
         itm_logits [B, 2] (class 1: a match), rank_logits [B], answer_logits [B, A],
         choice_logits [B, 2], region_logits [B, R], label_logits [B, 2] (NLVR2).
         On request hidden [depth, B, M, D] and maps [depth, B, heads, M, M]. What is
         one an example, as pooled and the logits of a pair, is [B, S, ...] in packed
         rows.

Types are 0 for text, 1 for regions, 2 for the second image. NLVR2 comes in three
published forms: `pair` and `paired_attn` encode (text, image) twice, `triplet` once
with both images. Without regions2 the first two take rows as the published loader lays
them: (text 0, left 0), (text 0, right 0), (text 1, left 1), ...
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.fusion import single_stream
from vlp_jax.heads import answer, match, mlm, pooler, region
from vlp_jax.layers import embeddings, fields
from vlp_jax.towers import regions

MU = dict(  # for tests: other numbers, same code
  width=64, depth=2, num_heads=2, region_dim=16, region_classes=11, max_positions=64
)
VARIANTS = {
  "mu": MU,
  "small": dict(width=256, depth=4, num_heads=4),
  "base": dict(width=768, depth=12, num_heads=12),
  "large": dict(width=1024, depth=24, num_heads=16),
}
PRETRAIN = ("mlm", "mrfr", "mrc", "itm")
NLVR2 = ("pair", "triplet", "paired_attn")
HEADS = (*PRETRAIN, "rank", "vqa", "vcr", "refer", "refer_mlp", *NLVR2)


class Model(nn.Module):
  """See the header.

  Attributes:
    vocab_size: injected with the vocabulary.
    heads: names of HEADS; the default is the pretraining model.
    num_answers: of the head "vqa" (VQA 3129, visual entailment 3).
    type_vocab: rows of the type table; 3 for NLVR2, 4 for VCR.
    dtype: of activations and matmuls; parameters, norms, logits stay float32.
    remat, unroll, implementation: see `layers.transformer` and `layers.attention`.
  """

  vocab_size: int
  width: fields.Count
  depth: fields.Count
  num_heads: fields.Count
  mlp_dim: fields.Count | None = None  # 4 * width
  region_dim: fields.Count = 2048
  region_classes: int = 1601
  type_vocab: int = 2
  max_positions: int = 512
  heads: tuple[str, ...] = PRETRAIN
  num_answers: int = 0
  dropout: fields.Rate = 0.1
  attention_dropout: fields.Rate | None = None
  eps: float = 1e-12
  act: fields.Act = "gelu"
  dtype: fields.Dtype = "float32"
  remat: fields.Remat = "none"
  unroll: fields.Count | None = None
  implementation: fields.Implementation = None

  def setup(self):
    unknown = set(self.heads) - set(HEADS)
    if unknown:
      raise ValueError(f"heads {sorted(unknown)} are not of {', '.join(HEADS)}.")
    if ("vqa" in self.heads) != (self.num_answers > 0):
      raise ValueError(
        f"num_answers={self.num_answers} and heads={self.heads}: the head 'vqa' needs "
        "the number of answers, the others take none."
      )
    if set(self.heads) & set(NLVR2) and self.type_vocab < 3:
      raise ValueError(f"type_vocab={self.type_vocab}: NLVR2 needs 3, one an image.")
    width, shared = self.width, dict(eps=self.eps, dtype=self.dtype)
    self.embed_text = embeddings.Bert(
      self.vocab_size,
      width,
      self.max_positions,
      self.type_vocab,
      self.dropout,
      **shared,
    )
    self.embed_regions = regions.Regions(width, self.region_dim, self.dropout, **shared)
    self.encoder = single_stream.Encoder(
      self.depth,
      self.num_heads,
      self.mlp_dim or 4 * width,
      self.dropout,
      self.attention_dropout,
      act=self.act,
      implementation=self.implementation,
      remat=self.remat,
      unroll=self.unroll,
      **shared,
    )
    self.pooler = pooler.Pooler(dtype=self.dtype)
    make = {
      "mlm": lambda: mlm.Mlm(self.act, **shared),
      "mrfr": lambda: region.Mrfr(**shared),
      "mrc": lambda: region.Mrc(self.region_classes, **shared),
      "itm": match.Match,
      "rank": lambda: match.Match(1),
      "vqa": lambda: answer.Answer(self.num_answers, 2 * width, **shared),
      "vcr": lambda: answer.Answer(2, 2 * width, "relu", **shared),
      "refer": lambda: match.Match(1),
      "refer_mlp": lambda: answer.Answer(1, width, **shared),
      "pair": match.Match,
      "triplet": match.Match,
      "paired_attn": lambda: match.PairedAttention(
        self.num_heads, self.dropout, self.dtype
      ),
    }
    self.head = {name: make[name]() for name in self.heads}

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every batch key of the configured heads, at a tiny size."""
    rows, length, count = 2, 3, 2
    make = lambda dtype, *shape: jax.ShapeDtypeStruct((rows, *shape), dtype)
    spec = {
      "text_ids": make(jnp.int32, length),
      "text_mask": make(jnp.bool_, length),
      "mlm_positions": make(jnp.int32, 1),
      "regions_masked": make(jnp.bool_, count),
    }
    for name in ("regions", "regions2")[: 1 + bool(set(self.heads) & set(NLVR2))]:
      spec[f"{name}_features"] = make(jnp.float32, count, self.region_dim)
      spec[f"{name}_boxes"] = make(jnp.float32, count, 7)
      spec[f"{name}_mask"] = make(jnp.bool_, count)
    return spec

  def _embed(self, batch, images, train):
    """Streams and masks of the text and the named images, as far as they are given."""
    streams = {}
    if "text_ids" in batch:  # static: a missing modality is a missing key
      streams["text"] = self.embed_text(
        batch["text_ids"],
        types=batch.get("text_types"),
        positions=batch.get("text_positions"),
        delta=batch.get("text_delta"),
        train=train,
      )
    for kind, name in enumerate(images, 1):
      if f"{name}_features" not in batch:
        continue
      types = batch.get(f"{name}_types", kind)
      streams[name] = self.embed_regions(
        batch[f"{name}_features"],
        batch[f"{name}_boxes"],
        self.embed_text.type(types),
        masked=batch.get("regions_masked") if name == "regions" else None,
        delta=batch.get(f"{name}_delta"),
        train=train,
      )
    if not streams:
      raise KeyError("uniter needs text_ids or regions_features in the batch.")
    return streams, {k: batch[f"{k}_mask"] for k in streams}

  def encode(
    self,
    batch: Mapping[str, jax.Array],
    *,
    images: tuple[str, ...] = ("regions",),
    first: bool = False,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> dict[str, jax.Array]:
    """States of every stream and `pooled`, the pooled state of the first text token.

    Args: first: `pooled` alone, for which the last layer runs for that token alone.
    """
    streams, masks = self._embed(batch, images, train)
    packed = [k for k in streams if f"{k}_segments" in batch]
    if packed and len(packed) < len(streams):
      raise KeyError(f"packed rows need segments of all of {list(streams)}: {packed}.")
    if first and "text" not in streams:
      raise KeyError("what is one an example is read off the text; no text_ids.")
    starts = jnp.zeros((len(next(iter(masks.values()))), 1), jnp.int32)  # [CLS] [B, 1]
    if packed and "text" in streams:
      starts = batch["segment_starts"]  # of each example: [B, S]
    fused = self.encoder(
      streams,
      masks,
      index=batch.get("fuse_index"),
      segments={k: batch[f"{k}_segments"] for k in packed} or None,
      read=starts if first else None,
      train=train,
      hidden=hidden,
      maps=maps,
    )
    out = dict(fused.streams)
    if "text" in streams:
      if first:
        x = fused.read
      else:
        x = mlm.at_positions(out["text"], starts) if packed else out["text"][:, :1]
      out["pooled"] = self.pooler(x if packed else x[:, 0])
    if hidden:
      out["hidden"] = fused.hidden
    if maps:
      out["maps"] = fused.maps
    return out

  def __call__(
    self,
    batch: Mapping[str, jax.Array],
    *,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> dict[str, jax.Array]:
    run = dict(train=train, hidden=hidden, maps=maps)
    out = self.encode(batch, images=self._images(), **run)
    if "text" in out:
      out |= self._text_heads(batch, out)
    if "regions" in out:
      out |= self._region_heads(batch, out)
    if set(self.heads) & {"pair", "paired_attn"}:
      out |= self._two_images(batch, out, train)
    return out

  def pooled(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """What is one an example: `pooled` and the logits of heads on it, no states.

    The same numbers for less work: the last layer runs for the first token of each
    example alone, and of its matmuls three quarters are left out. In a loop over layers
    the stacked parameters are copied for it, and their gradients; a few layers are
    unrolled and take no copy. Raises: ValueError for the head "paired_attn".
    """
    if "paired_attn" in self.heads:
      raise ValueError("the head 'paired_attn' reads all states; leave `method` out.")
    out = self.encode(batch, images=self._images(), first=True, train=train)
    out |= self._text_heads({}, out)
    if "pair" in self.heads:
      out |= self._two_images(batch, out, train)
    return out

  def _images(self):
    return ("regions", "regions2") if "triplet" in self.heads else ("regions",)

  def _text_heads(self, batch, out):
    head, more = self.head, {}
    if "mlm" in head and "mlm_positions" in batch:
      words = mlm.at_positions(out["text"], batch["mlm_positions"])
      more["mlm_logits"] = head["mlm"](words, self.embed_text.table)  # tied
    if "rank" in head:
      more["rank_logits"] = head["rank"](out["pooled"])[..., 0]
    names = {
      "itm": "itm_logits",
      "vqa": "answer_logits",
      "vcr": "choice_logits",
      "triplet": "label_logits",
    }
    return more | {v: head[k](out["pooled"]) for k, v in names.items() if k in head}

  def _region_heads(self, batch, out):
    head, x, more = self.head, out["regions"], {}
    if "mrfr" in head:
      more["mrfr"] = head["mrfr"](x, self.embed_regions.kernel)  # tied
    if "mrc" in head:
      more["mrc_logits"] = head["mrc"](x)
    for name in ("refer", "refer_mlp"):
      if name in head:  # a softmax over regions: padding is out of it
        scores = head[name](x)[..., 0]
        least = jnp.finfo(scores.dtype).min
        more["region_logits"] = jnp.where(batch["regions_mask"], scores, least)
    return more

  def _two_images(self, batch, first, train):
    """NLVR2 with one sequence an image; each side is the tokens of a sequence."""
    if "segment_starts" in batch:
      raise ValueError("pairs of images are not packed; leave input.pack out.")
    if "regions2_features" in batch:
      right = {
        k.replace("regions2_", "regions_"): x
        for k, x in batch.items()
        if not k.startswith(("regions_", "fuse_"))
      }
      if "regions_types" not in right:
        shape = right["regions_mask"].shape
        right["regions_types"] = jnp.full(shape, 2, jnp.int32)
      second = self.encode(right, first="text" not in first, train=train)
      batches, found = (batch, right), (first, second)
    else:  # rows come in pairs
      half = lambda tree, k: {name: x[k::2] for name, x in tree.items()}
      batches, found = ((half(tree, 0), half(tree, 1)) for tree in (batch, first))
    if "pair" in self.head:
      both = jnp.concatenate([out["pooled"] for out in found], axis=-1)
      return {"label_logits": self.head["pair"](both)}
    names = [k for k in ("text", "regions") if k in first]
    join = lambda tree, end: jnp.concatenate([tree[k + end] for k in names], axis=1)
    sides = [join(out, "") for out in found]
    wheres = [join(one, "_mask") for one in batches]
    logits = self.head["paired_attn"](*sides, *wheres, train=train)
    return {"label_logits": logits}
