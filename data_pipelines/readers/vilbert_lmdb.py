"""ViLBERT's LMDBs (arXiv 1908.02265, 1912.02315), also those with captions inside.

Tasks: keys are image ids, `keys` is a pickled list of them, values are pickles of

  {image_id, image_h, image_w, num_boxes, boxes [n, 4] in pixels, features [n, D],
   if there cls_prob [n, C]}

with arrays, or base64 of float32 in the older repository. Conceptual Captions: records
of tensorpack's LMDBSerializer (keys 00000000, ..., list `__keys__`), msgpack or pickle
of [features, cls_prob, boxes, num_boxes, image_h, image_w, image_id, caption].

Pickles go through an unpickler that builds arrays, numbers, texts, lists and dicts.
The global box that ViLBERT puts in front is the model's affair.
"""

import numpy as np

from data_pipelines.readers import lines, lmdb_file, packed, regions
from vlp_jax import errors

RECORD = ("features", "cls_prob", "boxes", "num_boxes", "image_h", "image_w")
RECORD += ("image_id", "caption")
LISTS = ("keys", "__keys__")


def _unpack(data: bytes):
  return packed.pickled(data) if data[:1] == b"\x80" else packed.msgpack(data)


class Reader:
  """See the header."""

  def __init__(self, path):
    self.file = lmdb_file.File(path)
    try:
      listed = [self.file.get(k) for k in LISTS]
      listed = [_unpack(v) for v in listed if v is not None]
    except ValueError as error:
      raise errors.UserError(f"{path}: its list of keys: {error}.") from None
    names = listed[0] if listed else [k for k, _ in self.file.items(values=False)]
    if not isinstance(names, list) or not names:
      raise errors.UserError(f"{path} names no image.")
    names = [k.decode() if isinstance(k, bytes) else str(k) for k in names]
    self.places = {k: k for k in names if k not in LISTS}

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image, named as in the record."""
    value = self.file.get(place)
    if value is None:
      raise ValueError(f"image {name}: in the list of keys, but not in the file")
    try:
      x = _unpack(value)
      if isinstance(x, list):
        x = dict(zip(RECORD, x, strict=True))
      num, size = int(x["num_boxes"]), (float(x["image_w"]), float(x["image_h"]))
      raw = {k: x[k] for k in ("features", "boxes", "cls_prob") if x.get(k) is not None}
      own, caption = _string(x.get("image_id", name)), _string(x.get("caption", ""))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise ValueError(f"image {name}: {type(error).__name__} {error}") from None
    found = {k: _rows(name, k, v, num) for k, v in raw.items()}
    if set(found) < {"features", "boxes"}:
      raise ValueError(f"image {name}: features or boxes are missing")
    probs = found.get("cls_prob")
    return regions.make(
      own or name,
      found["features"],
      found["boxes"][:, :4],
      size=size,
      probs=probs,
      conf=None if probs is None else probs[:, 1:].max(axis=1),
      caption=caption,
    )


def _string(value) -> str:
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  return str(value)


def _rows(name, what, value, num) -> np.ndarray:
  """[num, n] of an array, or of base64 of float32; surplus rows are cut."""
  if isinstance(value, bytes | str):
    value = lines.array(name, what, value, "<f4", (num, 4 if what == "boxes" else -1))
  value = np.asarray(value)
  if value.ndim != 2 or value.dtype.kind != "f" or not 0 < num <= len(value):
    raise ValueError(
      f"image {name}: {what} of shape {value.shape}, {value.dtype} for {num} regions"
    )
  return value[:num]
