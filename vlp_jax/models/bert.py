"""BERT for text alone: masked words, next sentences, or words one by one.

Reads:   text_ids, text_mask [B, L], and if given text_types, text_positions [B, L],
         text_delta [B, L, D], mlm_positions [B, P]; in packed rows text_segments
         [B, L] and segment_starts [B, S].
Returns: text [B, L, D] (0 at padding), pooled [B, D], text_features [B, D] (the mean of
         the real tokens, for probes), and of the `heads`: mlm_logits [B, P, V],
         nsp_logits [B, 2] (class 0: the second sentence follows the first, as in the
         published weights). On request hidden, maps of every layer.

`causal=True` makes it an autoregressive language model for `generate:lm`: same
parameters, attention to earlier tokens only (the pretraining of arXiv 1801.06146 and
GPT, with BERT's post-norm blocks). Source: arXiv 1810.04805.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.heads import match, mlm
from vlp_jax.layers import fields
from vlp_jax.metrics import wide
from vlp_jax.towers import bert

VARIANTS = bert.VARIANTS
HEADS = ("mlm", "nsp")


class Model(nn.Module):
  """See the header; sizes as in `towers.bert`.

  Attributes:
    vocab_size: injected with the vocabulary.
    heads: names of HEADS; the mlm head is also that of the causal model.
  """

  vocab_size: int
  width: fields.Count
  depth: fields.Count
  num_heads: fields.Count
  mlp_dim: fields.Count | None = None
  max_positions: int = 512
  type_vocab: int = 2
  heads: tuple[str, ...] = HEADS
  causal: bool = False
  dropout: fields.Rate = 0.1
  attention_dropout: fields.Rate | None = None
  eps: float = 1e-12
  act: fields.Act = "gelu"
  dtype: fields.Dtype = "float32"
  remat: fields.Remat = "none"
  implementation: fields.Implementation = None

  def setup(self):
    unknown = set(self.heads) - set(HEADS)
    if unknown:
      raise ValueError(f"heads {sorted(unknown)} are not of {', '.join(HEADS)}.")
    self.bert = bert.Bert(
      self.vocab_size,
      self.width,
      self.depth,
      self.num_heads,
      self.mlp_dim,
      self.max_positions,
      self.type_vocab,
      causal=self.causal,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      eps=self.eps,
      act=self.act,
      dtype=self.dtype,
      implementation=self.implementation,
      remat=self.remat,
    )
    if "mlm" in self.heads:
      self.mlm_head = mlm.Mlm(self.act, self.eps, self.dtype)
    if "nsp" in self.heads:
      self.nsp_head = match.Match()

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every batch key that makes parameters, at a tiny size."""
    make = lambda dtype, *shape: jax.ShapeDtypeStruct((2, *shape), dtype)
    return {
      "text_ids": make(jnp.int32, 3),
      "text_mask": make(jnp.bool_, 3),
      "text_types": make(jnp.int32, 3),
      "mlm_positions": make(jnp.int32, 1),
    }

  def __call__(
    self,
    batch: Mapping[str, jax.Array],
    *,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> dict[str, jax.Array]:
    where, given = batch["text_mask"], ("types", "positions", "segments", "delta")
    got = self.bert(
      batch["text_ids"],
      where,
      **{k: batch.get(f"text_{k}") for k in given},
      train=train,
      hidden=hidden,
      maps=maps,
    )
    pooled = got.pooled
    if "segment_starts" in batch:  # [CLS] of each example of a packed row: [B, S, D]
      first = mlm.at_positions(got.x, batch["segment_starts"])
      pooled = self.bert.pool_token(first)
    count = jnp.maximum(where.sum(axis=1, keepdims=True), 1)
    mean = wide(got.x).sum(axis=1) / count
    out = {"text": got.x, "pooled": pooled, "text_features": mean}
    if "mlm" in self.heads and "mlm_positions" in batch:
      words = mlm.at_positions(got.x, batch["mlm_positions"])
      out["mlm_logits"] = self.mlm_head(words, self.bert.table)  # tied
    if "nsp" in self.heads:
      out["nsp_logits"] = self.nsp_head(pooled)
    asked = {"hidden": got.hidden, "maps": got.maps}
    return out | {k: x for k, x in asked.items() if x is not None}

  def encode_text(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """The text side alone, for probes: text_features [B, D] and `text`."""
    out = self(batch, train=train)
    return {k: out[k] for k in ("text", "pooled", "text_features")}
