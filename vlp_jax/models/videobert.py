"""VideoBERT: BERT over words and video tokens (arXiv 1904.01766).

Reads:   text_ids, text_mask [B, L], [CLS] w ... [SEP] as pipelines give them;
         clips_tokens [B, T] int32, 0..K-1, or K for [MASK]; clips_mask [B, T]; if given
         mlm_positions [B, P], mvm_positions [B, Q]; clips_features [B, T, F] for
         `caption_features` only.
Returns: text [B, L, D], video [B, T, D] (0 at padding), pooled [B, D], video_features
         [B, D] (mean of the video states), align_logits [B, 2] (class 0: text and video
         belong together, the sense of BERT's next sentence head), mlm_logits [B, P, V],
         mvm_logits [B, Q, K].

A row with video is `[CLS] w ... [>] v ... [SEP]`: the text's last token becomes [>],
and a [SEP] follows the video. Types are 0 up to [>] and 1 behind it; positions run on
over the whole sequence. A row without text is `[CLS] [>] v ... [SEP]`, one without
video `[CLS] w ... [SEP]`. In the joint vocabulary of V + 1 + K ids [>] is V and video
token k is V + 1 + k.

The video tokens' table holds the centroids of the k-means tree. `train_tokens=False`
holds it fixed, as published; optimiser groups freeze `video_tokens$` as well, so that
weight decay does not move it. Where the centroids are not as wide as the model, a
trained projection follows (base; the published large model has none).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.fusion import single_stream
from vlp_jax.heads import joint_mlm, match, mlm, pooler
from vlp_jax.layers import dense, embeddings, fields
from vlp_jax.metrics import wide
from vlp_jax.vocab import Vocab

NUM_TOKENS = 12**4  # leaves of the published tree
MU = dict(width=32, depth=2, num_heads=2, num_tokens=16, token_dim=24, max_positions=64)
VARIANTS = {  # mu is for tests: other numbers, same code
  "mu": MU,
  "small": dict(width=256, depth=4, num_heads=4, num_tokens=256),
  "base": dict(width=768, depth=12, num_heads=12),
  "large": dict(width=1024, depth=24, num_heads=16),
}


class Embeddings(embeddings.Bert):
  """BERT's embeddings, also of vectors that stand in for words."""

  def vectors(self, x, *, positions, types, train=False):
    """Drop(LN(x + position + type)) of [B, T, D]."""
    x = x + jnp.take(self.places, positions, axis=0) + self.type(types)
    x = nn.with_logical_constraint(
      self.norm(x), ("act_batch", "act_length", "act_embed")
    )
    return self.drop(x, train=train)


class Model(nn.Module):
  """See the header.

  Attributes:
    vocab: of the words, injected; with [CLS], [SEP] and [MASK].
    num_tokens, token_dim: K and the width of the centroids.
    train_tokens: whether a gradient reaches the table of video tokens.
    template: word ids of the sentence with [MASK]s that `caption_features` reads
      captions out of, [CLS] and [SEP] included.
  """

  vocab: Vocab
  width: fields.Count
  depth: fields.Count
  num_heads: fields.Count
  mlp_dim: fields.Count | None = None
  num_tokens: int = NUM_TOKENS
  token_dim: fields.Count = 1024
  train_tokens: bool = False
  max_positions: int = 512
  template: tuple[int, ...] = ()
  dropout: fields.Rate = 0.1
  attention_dropout: fields.Rate | None = None
  eps: float = 1e-12
  act: fields.Act = "gelu"
  dtype: fields.Dtype = "float32"
  remat: fields.Remat = "none"
  implementation: fields.Implementation = None

  def setup(self):
    v = self.vocab
    if min(v.cls_id, v.sep_id, v.mask_id) < 0:
      raise ValueError(
        f"videobert needs [CLS], [SEP] and [MASK]; the vocabulary has {v.cls_id}, "
        f"{v.sep_id}, {v.mask_id} (-1: none). Set vocab.name=wordpiece."
      )
    shared = dict(eps=self.eps, dtype=self.dtype)
    self.embed_text = Embeddings(
      v.size + 1, self.width, self.max_positions, 2, self.dropout, **shared
    )
    init = nn.with_logical_partitioning(dense.INIT, ("vocab", None))
    size = self.num_tokens, self.token_dim
    self.video_tokens = self.param("video_tokens", init, size)
    if self.token_dim != self.width:
      self.project = dense.Linear(self.width, (None, "embed"), dtype=self.dtype)
    self.encoder = single_stream.Encoder(
      self.depth,
      self.num_heads,
      self.mlp_dim or 4 * self.width,
      self.dropout,
      self.attention_dropout,
      act=self.act,
      implementation=self.implementation,
      remat=self.remat,
      **shared,
    )
    self.pooler = pooler.Pooler(dtype=self.dtype)
    self.mlm_head = joint_mlm.JointMlm(v.size, self.num_tokens, self.act, **shared)
    self.align_head = match.Match()

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every batch key that makes parameters, at a tiny size."""
    make = lambda dtype, *shape: jax.ShapeDtypeStruct((2, *shape), dtype)
    return {
      "text_ids": make(jnp.int32, 3),
      "text_mask": make(jnp.bool_, 3),
      "mlm_positions": make(jnp.int32, 1),
      "clips_tokens": make(jnp.int32, 2),
      "clips_mask": make(jnp.bool_, 2),
    }

  def _table(self):
    """Embeddings of the video tokens, [K, D]."""
    table = self.video_tokens
    if not self.train_tokens:
      table = jax.lax.stop_gradient(table)
    return self.project(table) if self.token_dim != self.width else table

  def _text(self, batch, video):
    """ids and mask [B, L] as they enter: [>] for the last token where video follows.

    Args: video: [B] bool, rows with video.
    """
    v, pointer = self.vocab, self.vocab.size
    if "text_ids" not in batch:
      ids = jnp.array([[v.cls_id, pointer]], jnp.int32)
      ids = jnp.broadcast_to(ids, (len(video), 2))
      return ids, jnp.broadcast_to(video[:, None], ids.shape)
    ids, mask = batch["text_ids"], batch["text_mask"]
    if ids.shape[1] < 2:
      raise ValueError("texts have at least 2 places, for [CLS] and [SEP].")
    place = jnp.arange(ids.shape[1])
    empty = video & ~mask.any(axis=1)
    start = jnp.where(place == 0, v.cls_id, pointer)
    ids = jnp.where(empty[:, None], start, ids)
    mask = jnp.where(empty[:, None], place < 2, mask)
    last = place == mask.sum(axis=1, keepdims=True) - 1
    return jnp.where(last & video[:, None], pointer, ids), mask

  def encode(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """States text [B, L, D], video [B, T, D], first [B, D] ([CLS]), all pooled."""
    has_text, has_video = "text_ids" in batch, "clips_tokens" in batch
    if not has_text and not has_video:
      raise KeyError("videobert needs text_ids or clips_tokens in the batch.")
    where = batch["clips_mask"] if has_video else None
    rows = len(batch["text_ids" if has_text else "clips_tokens"])
    video = where.any(axis=1) if has_video else jnp.zeros(rows, bool)
    ids, mask = self._text(batch, video)
    streams, masks = {"text": self.embed_text(ids, train=train)}, {"text": mask}
    if has_video:
      streams |= self._video(batch["clips_tokens"], where, mask, train)
      masks |= {"video": where, "end": video[:, None]}
    out = dict(self.encoder(streams, masks, train=train).streams)
    out.pop("end", None)
    out["first"] = out["text"][:, 0]
    if not has_text:
      del out["text"]
    if has_video:
      count = jnp.maximum(where.sum(axis=1, keepdims=True), 1)
      out["video_features"] = wide(out["video"]).sum(axis=1) / count
    return out | {"pooled": self.pooler(out["first"])}

  def _video(self, tokens, where, mask, train):
    """Streams `video` [B, T, D] and `end` [B, 1, D], the [SEP] behind it."""
    words = self.embed_text.table
    table = jnp.concatenate([self._table(), words[self.vocab.mask_id][None]])
    before = mask.sum(axis=1, keepdims=True, dtype=jnp.int32)  # [B, 1]
    at = before + jnp.cumsum(where, axis=1, dtype=jnp.int32) - 1
    end = before + where.sum(axis=1, keepdims=True, dtype=jnp.int32)
    longest = mask.shape[1] + where.shape[1] + 1
    if longest > self.max_positions:
      raise ValueError(
        f"a row of up to {longest} tokens is beyond the {self.max_positions} positions "
        "of the table; shorten text or video, or set model.max_positions."
      )
    embed = lambda x, at: self.embed_text.vectors(x, positions=at, types=1, train=train)
    stop = jnp.broadcast_to(words[self.vocab.sep_id], (len(mask), 1, self.width))
    # A token beyond K gives NaN, loudly, as words do.
    return {
      "video": embed(jnp.take(table, tokens, axis=0), jnp.where(where, at, 0)),
      "end": embed(stop, end),
    }

  def __call__(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    out = self.encode(batch, train=train)
    out["align_logits"] = self.align_head(out["pooled"])
    words = self.embed_text.table[: self.vocab.size]
    if "text" in out and "mlm_positions" in batch:
      x = mlm.at_positions(out["text"], batch["mlm_positions"])
      out["mlm_logits"] = self.mlm_head.words(x, words)
    if "video" in out and ("mvm_positions" in batch or self.is_initializing()):
      at = batch.get("mvm_positions", jnp.zeros((len(out["video"]), 1), jnp.int32))
      x = mlm.at_positions(out["video"], at)
      out["mvm_logits"] = self.mlm_head.tokens(x, self._table())
    return out

  def encode_video(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """The video side alone, for probes: video_features [B, D] and `video`."""
    only = {k: x for k, x in batch.items() if not k.startswith(("text_", "mlm_"))}
    out = self.encode(only, train=train)
    return {k: out[k] for k in ("video", "pooled", "video_features")}

  def caption_features(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """What captions are made of: `caption_features` [B, 2 D], or [B, 2 D + F].

    The mean state of the video tokens beside the mean state of the [MASK]s in a
    template sentence (text_ids if given, else `template`), and behind them the mean of
    clips_features where these are in the batch ("+S3D" in the paper).
    """
    if "text_ids" not in batch:
      if not self.template:
        raise ValueError("caption_features needs text_ids, or model.template (ids).")
      ids = jnp.array(self.template, jnp.int32)[None]
      ids = jnp.broadcast_to(ids, (len(batch["clips_tokens"]), ids.shape[1]))
      batch = batch | {"text_ids": ids, "text_mask": jnp.ones(ids.shape, bool)}
    slots = (batch["text_ids"] == self.vocab.mask_id) & batch["text_mask"]
    out = self.encode(batch, train=train)
    count = jnp.maximum(slots.sum(axis=1, keepdims=True), 1)
    words = jnp.where(slots[..., None], wide(out["text"]), 0).sum(axis=1) / count
    parts = [out["video_features"], words]
    if "clips_features" in batch:
      where = batch["clips_mask"]
      raw = jnp.where(where[..., None], wide(batch["clips_features"]), 0).sum(axis=1)
      parts.append(raw / jnp.maximum(where.sum(axis=1, keepdims=True), 1))
    return {"caption_features": jnp.concatenate(parts, axis=-1)}
