"""Image-text matching with word-region alignment, and ranking (arXiv 1909.11740)."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking, packing, transport

NEGATIVES = ("swap", "given")
SWAPPED = ("regions", "text")
Negatives = Literal[*NEGATIVES]


def compact(masks: list[jax.Array], size: int) -> jax.Array:
  """Index [B, size] of the real tokens of concatenated masks [B, L_s], -1 = none.

  Real tokens keep their order; those beyond `size` are left out.
  """
  real = jnp.concatenate(masks, axis=1)
  order = jnp.argsort(~real, axis=1, stable=True)[:, :size]
  index = jnp.where(jnp.take_along_axis(real, order, axis=1), order, -1)
  short = size - index.shape[1]
  index = jnp.pad(index, ((0, 0), (0, max(short, 0))), constant_values=-1)
  return index.astype(jnp.int32)


def _partners(keys, group, valid):
  """For each row, uniformly, a valid row of another group: ([B] int32, [B] exists)."""
  # Sorted by group a row's own group is one block: draw a rank outside of it.
  last = jnp.iinfo(jnp.int32).max
  order = jnp.lexsort((group, ~valid))  # valid rows first, by group
  ranked = jnp.where(valid[order], group[order], last)
  start = jnp.searchsorted(ranked, group, side="left")
  count = valid.sum()
  own = jnp.minimum(jnp.searchsorted(ranked, group, side="right"), count) - start
  others = count - own
  u = jax.vmap(jax.random.uniform)(keys)
  rank = jnp.minimum((u * others).astype(jnp.int32), jnp.maximum(others - 1, 0))
  rank = jnp.where(rank < start, rank, rank + own)
  return order[jnp.minimum(rank, len(order) - 1)], others > 0


def swap_pairs(batch, key, *, negatives="swap", negative_rate=0.5, swapped="regions"):
  """Makes the negatives of a whole batch: some rows take the image of another.

  Runs before a batch is cut into microbatches (`itm.prepare`), so that the pairs do not
  depend on their number. With probability `negative_rate`, drawn by the row's own key,
  all regions_* fields of a row come from another row of another `group_id` (image; of
  another `example_id` without it), uniformly. A row stays as it is where the batch has
  no other image.

  Args:
    swapped: the stream that moves: "regions", as published, or "text". The pairs have
      the same distribution, and on many devices moving text costs a thousandth.
  Returns: the batch with `match` [B] int32, 1 = the pair belongs together, and a
    `fuse_index` for the new regions: those beyond its length drop out of
    `regions_mask`. Unchanged when negatives="given".
  """
  if negatives not in NEGATIVES:
    raise ValueError(f"negatives={negatives!r}; one of {NEGATIVES}.")
  if swapped not in SWAPPED:
    raise ValueError(f"swapped={swapped!r}; one of {SWAPPED}.")
  if negatives == "given":
    return batch
  keys = jax.vmap(jax.random.split)(
    masking.row_keys(jax.random.split(key)[0], batch["example_id"])
  )
  rows = len(batch["example_id"])
  group = batch.get("group_id", batch["example_id"])
  valid = batch.get("example_mask", jnp.ones(rows, bool))
  valid = valid & batch["regions_mask"].any(axis=1) & batch["text_mask"].any(axis=1)
  drawn = jax.vmap(jax.random.uniform)(keys[:, 0]) < negative_rate
  partner, exists = _partners(keys[:, 1], group, valid)
  swap = drawn & exists & valid
  source = jnp.where(swap, partner, jnp.arange(rows))
  new = {k: x[source] for k, x in batch.items() if k.startswith(f"{swapped}_")}
  match = batch.get("match", jnp.ones(rows, jnp.int32))
  new["match"] = jnp.where(swap, 0, match).astype(jnp.int32)
  if "fuse_index" in batch:
    size, both = batch["fuse_index"].shape[1], batch | new
    text, mask = both["text_mask"], both["regions_mask"]
    room = size - text.sum(axis=1, keepdims=True)
    new["regions_mask"] = mask & (jnp.cumsum(mask, axis=1) <= room)
    new["fuse_index"] = compact([text, new["regions_mask"]], size)
  return batch | new


def itm(
  apply,
  variables,
  batch,
  key,
  *,
  negatives: Negatives = "swap",
  negative_rate=0.5,
  swapped: Literal[*SWAPPED] = "regions",
  wra_coef=0.1,
  wra_on_negatives=True,
  method: str | None = None,
):
  """Does this image belong to this text? With the transport distance D beside it.

    L = mean CE(itm_logits, match) + wra_coef (sum_{matched} D - sum_{others} D) / rows

  Args:
    negatives: "swap": made by `prepare` inside the batch, or "given": by `match` [B].
      "swap" makes them here when nobody has prepared the batch, which is right for
      whole batches only: the training step calls `prepare` before microbatches.
    negative_rate, swapped: see `swap_pairs`.
    wra_coef: 0 leaves the distance out. It is over all real tokens, [CLS] and [SEP]
      included, of the last layer.
    wra_on_negatives: True pushes mismatched pairs apart (published code), False only
      draws matched ones together (paper); the divisor is the number of rows in both.
    method: of the model instead of its call, such as "pooled", which gives the logits
      for less work where `wra_coef` is 0.
  Reads text_*, regions_*, example_id, group_id; wants itm_logits [B, 2], text, regions.
  Packed rows are taken with given labels and without the distance.
  """
  if negatives == "given" and "match" not in batch:
    raise KeyError('itm with negatives="given" needs match [B] in the batch.')
  if method and wra_coef:
    raise ValueError(
      f"wra_coef={wra_coef} reads states, which method {method!r} lacks."
    )
  if "match" not in batch:
    batch = swap_pairs(batch, key, negative_rate=negative_rate, swapped=swapped)
  example_id, match = batch["example_id"], batch["match"]
  rng = masking.drop_rng(jax.random.split(key)[1], example_id)
  out, mutable = apply(variables, batch, rng=rng, train=True, method=method)
  # A row needs both sides: text without an image is no pair.
  where = _has(batch, "text") & _has(batch, "regions") & batch.get("example_mask", True)
  logits = wide(out["itm_logits"])
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, match)
  terms = {"itm": Term(*Mean.of(xent, where), coef=1.0)}
  aux = {"itm/accuracy": Mean.of(logits.argmax(-1) == match, where)}
  if wra_coef:
    masks = batch["text_mask"], batch["regions_mask"]
    far = transport.distance(out["text"], out["regions"], *masks)  # [B]
    sign = jnp.where(match == 1, 1.0, -1.0 if wra_on_negatives else 0.0)
    terms["wra"] = Term(*Mean.of(sign * far, where), coef=wra_coef)
    aux["wra/positive"] = Mean.of(far, where & (match == 1))
    aux["wra/negative"] = Mean.of(far, where & (match == 0))
  return terms, aux, mutable


itm.prepare = swap_pairs
itm.packing = {"negatives": "given", "wra_coef": 0}


def _has(batch, stream):
  """Which examples have a token of the stream: [B], or [B, S] in packed rows."""
  if not packing.is_packed(batch):
    return batch[f"{stream}_mask"].any(axis=1)
  count = batch["example_id"].shape[1]
  return packing.Parts.of(batch[f"{stream}_segments"], count).real.any(axis=-1)


def hinge(
  positive: jax.Array, negative: jax.Array, *, margin: float = 0.2
) -> jax.Array:
  """Ranking loss max(0, margin + sigmoid(negative) - sigmoid(positive)), unreduced.

  Args:
    positive: [..., 1] and negative: [..., K], scores before the sigmoid.
  Returns: [..., K] float32. Source: published code of UNITER (image-text retrieval).
  """
  gap = jax.nn.sigmoid(wide(negative)) - jax.nn.sigmoid(wide(positive))
  return jnp.maximum(margin + gap, 0.0)
