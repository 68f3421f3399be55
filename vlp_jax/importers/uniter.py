"""UNITER and VILLA checkpoints, and BERT ones as a start (ChenRocks/UNITER layout).

A UNITER checkpoint must fill the whole backbone. Heads that only one side has are
listed in the report: a pretrained model has no answer layer, a task has no MLM head. A
BERT checkpoint fills text, encoder, pooler and MLM head and leaves the image parts.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.importers import Report, Source, finish, shapes, surgery
from vlp_jax.importers import bert_layers as bert

# Head of the model -> the published names it comes from.
HEADS = {
  "mlm": "cls.predictions",
  "mrfr": "feat_regress",
  "mrc": "region_classifier",
  "itm": "itm_output",
  "rank": "rank_output",
  "vqa": "vqa_output",
  "vcr": "vcr_output",
  "refer": "re_output",
  "refer_mlp": "re_output",
  "pair": "nlvr2_output",
  "triplet": "nlvr2_output",
  "paired_attn": "nlvr2_output",
}
MORE = ("attn1", "attn2", "fc", "attn_pool")  # beside nlvr2_output in paired_attn
TYPE_ROWS = {3: {2: 1}, 4: {2: 0, 3: 0}}  # NLVR2, VCR


def convert(
  arrays: Mapping[str, np.ndarray], model, *, rank_from_itm: bool | None = None
) -> tuple[dict, Report]:
  """Parameters of `models.uniter.Model` out of a published state dict.

  Args:
    arrays: by name, with or without `module.`; BERT's under `bert.` or bare.
    rank_from_itm: whether the ranking head is row 1 of the matching head. None: if the
      checkpoint has no ranking head; True overwrites one (as the published inference
      script does by mistake); False never.
  Returns: ({"params": ...}, report).
  Raises: ValueError for unexplained leftovers and shapes.
  """
  source = Source(arrays)
  source.rename(r"^bert\.", "uniter.")
  source.rename(r"^(embeddings|encoder|pooler)\.", r"uniter.\1.")
  is_bert = not source.has("uniter.img_embeddings.")
  want, notes = shapes(model), []
  flat = bert.under("embed_text", _text(source, want, notes))
  stack = bert.stack(source, "uniter.encoder.layer", model.depth, model.num_heads)
  flat |= bert.under("encoder/stack", stack)
  if source.has("uniter.pooler."):
    flat |= bert.under("pooler/dense", bert.linear(source, "uniter.pooler.dense"))
  if not is_bert:
    flat |= bert.under("embed_regions", _regions(source))
  for name in model.heads:
    found = _head(source, name, model, rank_from_itm, notes)
    flat |= bert.under(f"head_{name}", found)
  absent = [h for h in model.heads if not any(k.startswith(f"head_{h}/") for k in flat)]
  spare = [HEADS[h] for h in HEADS if HEADS[h] not in {HEADS[k] for k in model.heads}]
  may_miss = [f"head_{h}/" for h in absent]
  may_leave = [rf"{h}\." for h in spare]
  if "paired_attn" not in model.heads:
    may_leave += [rf"{h}\." for h in MORE]
  if is_bert:
    may_miss += ["embed_regions/", "pooler/"]
    may_leave += [r"cls\.seq_relationship\."]
  reshaped = [k for k in flat if k.endswith("kernel") or "/layers/" in k]
  return finish(
    flat,
    want,
    source,
    reshaped=reshaped,
    surgery=notes,
    may_miss=may_miss,
    may_leave=may_leave,
  )


def _text(source, want, notes):
  name = "uniter.embeddings"
  words = source.take(f"{name}.word_embeddings.weight")
  source.tied("cls.predictions.decoder.weight", words)
  size = want["embed_text/words"][0]
  if size > len(words):
    notes.append(f"words: {len(words)} rows, {size - len(words)} more of N(0, 0.02)")
    words = surgery.words(words, size)
  types = source.take(f"{name}.token_type_embeddings.weight")
  kinds = want["embed_text/types"][0]
  if kinds > len(types):
    notes.append(f"types: {len(types)} rows to {kinds}, copied: {TYPE_ROWS.get(kinds)}")
    types = surgery.rows(types, kinds, TYPE_ROWS.get(kinds, {}))
  places = source.take(f"{name}.position_embeddings.weight")
  length = want["embed_text/positions"][0]
  if length < len(places):
    notes.append(f"positions: the first {length} of {len(places)}")
    places = surgery.positions(places, length, how="cut")
  tables = {"words": words, "types": types, "positions": places}
  return tables | bert.under("norm", bert.norm(source, f"{name}.LayerNorm"))


def _regions(source):
  name = "uniter.img_embeddings"
  features = bert.linear(source, f"{name}.img_linear")
  source.tied("feat_regress.weight", features["kernel"].T)
  mask = source.take(f"{name}.mask_embedding.weight").copy()
  mask[0] = 0.0  # "not masked": forced to zero in every published forward pass
  return (
    {
      "features_kernel": features["kernel"],
      "features_bias": features["bias"],
      "mask": mask,
    }
    | bert.under("boxes", bert.linear(source, f"{name}.pos_linear"))
    | bert.under("features_norm", bert.norm(source, f"{name}.img_layer_norm"))
    | bert.under("boxes_norm", bert.norm(source, f"{name}.pos_layer_norm"))
    | bert.under("norm", bert.norm(source, f"{name}.LayerNorm"))
  )


def _from_itm(source, wanted):
  if wanted is None:
    return source.has("itm_output.") and not source.has("rank_output.")
  return wanted


def _head(source, name, model, rank_from_itm, notes):
  """One head below `head_<name>`, {} when the checkpoint has none."""
  at = HEADS[name]
  if name == "rank" and _from_itm(source, rank_from_itm):
    notes.append("rank: row 1 of the matching head")
    source.used |= {k for k in source.arrays if k.startswith("rank_output.")}
    itm = bert.linear(source, "itm_output")
    return {"dense/kernel": itm["kernel"][:, 1:], "dense/bias": itm["bias"][1:]}
  if not source.has(f"{at}."):
    return {}
  if name == "mlm":
    inner = f"{at}.transform"
    found = bert.transform(source, f"{inner}.dense", f"{inner}.LayerNorm")
    # Trained with the words it has: new words start with no bias.
    bias = source.take(f"{at}.bias")
    bias = np.pad(bias, (0, max(model.vocab_size - len(bias), 0)))
    return bert.under("transform", found) | {"bias": bias}
  if name in ("mrfr", "mrc"):
    found = bert.transform(source, f"{at}.net.0", f"{at}.net.2")
    found = bert.under("transform", found)
    if name == "mrfr":
      return found | {"bias": source.take(f"{at}.bias")}
    return found | bert.under("out", bert.linear(source, f"{at}.net.3"))
  if name in ("vqa", "vcr", "refer_mlp"):
    return (
      bert.under("dense", bert.linear(source, f"{at}.0"))
      | bert.under("norm", bert.norm(source, f"{at}.2"))
      | bert.under("out", bert.linear(source, f"{at}.3"))
    )
  if name == "paired_attn":
    side = lambda n: bert.packed_attention(source, n, model.num_heads)
    return (
      bert.under("left", side("attn1"))
      | bert.under("right", side("attn2"))
      | bert.under("mix", bert.linear(source, "fc.0"))
      | bert.under("pool", bert.linear(source, "attn_pool.fc.0"))
      | bert.under("match/dense", bert.linear(source, at))
    )
  return bert.under("dense", bert.linear(source, at))
