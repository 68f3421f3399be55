"""CBT: a video Transformer over features or S3D, BERT, and one over both.

BERT and S3D are held unless the model trains them: they cost a forward pass. The scores
of pairs are computed again in the backward pass, column by column.
"""

from vlp_jax.costs import families, flops, sequence, towers
from vlp_jax.towers import s3d

MODELS = ("cbt",)
OBJECTIVES = ("cbt:cbt", "cbt:classify")


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths`: tokens."""
  name, rows = families.known(objective, OBJECTIVES), families.rows(batch)
  share, out = families.share(batch, lengths), {}
  given = objective.keywords if name == "cbt:cbt" else {}
  passes, text, pairs, masked = _uses(name, batch, given)
  if "clips_features" in batch or "video_frames" in batch:
    out |= _video(model, batch, rows, share, passes)
  else:
    pairs = 0
  if "text_ids" in batch:
    length = batch["text_ids"].shape[1] * share
    bert = sequence.stack(model.text_depth, length, model.text_width)
    if text:
      out["text_tower/words"] = rows * bert
    if masked:
      places = batch["mlm_positions"].shape[1] if not name else min(20, length)
      places = families.predicted(lengths, places, 0.15 if name else 1.0, length - 2)
      head = sequence.words(places, model.text_width, model.vocab_size)
      out["text_tower/masked"], out["mlm"] = rows * bert, rows * head
    if pairs:
      out["cross"] = rows * pairs * _pair(model, _steps(model, batch) * share, length)
  if given.get("visual_coef"):
    steps = _steps(model, batch) * share
    hidden = steps
    if given["mask"] == "rate":
      most = min(given["max_masked"], _steps(model, batch))
      hidden = families.predicted(lengths, most, given["rate"], steps)
    out[families.LOSS] = flops.linear(rows * hidden, model.width, rows * steps)
  if model.num_classes and name != "cbt:cbt":
    out["head"] = rows * flops.linear(1, model.width, model.num_classes)
  return out


def _uses(name, batch, given) -> tuple[float, bool, int, bool]:
  """(passes of the video Transformer, BERT on the words, texts that a video is scored
  with, BERT on masked words): what the losses read, the compiler drops the rest.
  """
  if name == "cbt:classify":
    return 1, False, 0, False
  if not name:  # all that the batch asks for
    hidden = batch.get("clips_masked")
    passes = 1 + (hidden is not None and (1 if hidden.ndim == 2 else hidden.shape[1]))
    pairs = batch["pair_text"].shape[1] if "pair_text" in batch else 0
    return passes, True, pairs, "mlm_ids" in batch
  passes, rows = 0, families.rows(batch)
  if given["visual_coef"]:
    key = "clips_mask" if "clips_mask" in batch else "video_mask"
    passes += 1 if given["mask"] == "rate" else batch[key].shape[1]
  pairs = 0
  if given["cross_coef"]:
    passes += 1
    pairs = rows
    if given["num_negatives"] is not None:
      pairs = 1 + min(given["num_negatives"], rows - 1)
  return passes, bool(given["cross_coef"]), pairs, bool(given["bert_coef"])


def _steps(model, batch) -> int:
  """T of a row."""
  if "clips_features" in batch:
    return batch["clips_features"].shape[1]
  frames = batch["video_frames"].shape
  return frames[1] if len(frames) == 6 else frames[1] // model.window


def _video(model, batch, rows, share, passes):
  steps, out = _steps(model, batch), {}
  if "video_frames" in batch:
    frames = batch["video_frames"].shape
    size = (frames[2] if len(frames) == 6 else model.window, *frames[-3:-1])
    tower = towers.alike(s3d.S3D, model, embed_dim=0)
    out |= towers.count(tower, size, 3).scaled(rows * steps, "video_tower")
  real = steps * share
  out["embed"] = flops.linear(rows * real, model.feature_dim, model.width)
  out["visual"] = rows * passes * sequence.stack(model.depth, real, model.width)
  return out


def _pair(model, steps, length) -> float:
  """One score."""
  width = model.width
  cost = flops.linear(length, model.text_width, width)
  cost += flops.linear(steps, width, width)
  cost += sequence.stack(model.cross_depth, 1 + length + steps, width)
  return cost + flops.linear(1, width, width) + flops.linear(1, width, 1)


def frozen(model, objective) -> list[str]:
  held = {"text_tower": model.train_text, "video_tower": model.train_video}
  return [name for name, learns in held.items() if not learns]


def recomputed(model, batch, objective) -> float:
  parts = forward(model, batch, None, objective)
  again, rows = parts.get("cross", 0.0), families.rows(batch)
  given = objective.keywords if objective else {}
  passes = _uses(objective.name if objective else "", batch, given)[0]
  if "visual" in parts:
    steps = _steps(model, batch)
    more = sequence.again(model.remat, model.depth, steps, model.width)
    again += rows * passes * more
  if model.train_text:
    stacks = sum(k.startswith("text_tower/") for k in parts)
    layers = model.text_depth, batch["text_ids"].shape[1], model.text_width
    again += rows * stacks * sequence.again(model.remat, *layers) if stacks else 0.0
  return again
