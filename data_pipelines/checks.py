"""What a good record looks like, judged by the names of its features; no TensorFlow.

`context` and `lists` are those of `records.decode`: name -> values, and name -> the
values of each step. Unknown names are held to what is true of all: numbers are finite.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import media
from data_pipelines.media import image

MAX_TEXT = 100_000  # bytes
_TEXTS = ("key", "group", "text", "tags", "question", "answer")
# Of an image's regions: field -> (dtype of the bytes, numbers a region; "" for one).
_REGIONS = {
  "features": ("<f2", "dim"),
  "boxes": ("<f4", "7"),
  "objects": ("<i4", ""),
  "attributes": ("<i4", ""),
  "conf": ("<f4", ""),
  "attribute_conf": ("<f4", ""),
  "probs": ("<f2", "any"),
  "angles": ("<f4", "2"),
}
_SIGNED = ("features", "angles")


def require(condition, what: str) -> None:
  """Raises ValueError(what) unless the condition holds."""
  if not condition:
    raise ValueError(what)


def record(context: Mapping, lists: Mapping[str, Sequence]) -> None:
  """Raises ValueError with the first thing that is wrong with a record."""
  require(context.get("key"), "no key")
  whole = {**context, **{name: _flat(steps) for name, steps in lists.items()}}
  for name, values in whole.items():
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
      require(np.isfinite(values).all(), f"{name} is not finite")
    if name.rsplit("/", 1)[-1] in _TEXTS and isinstance(values, list):
      for value in values:
        text(name, value)
  for name in whole:
    if name.endswith("/dim"):
      regions(whole, name.removesuffix("/dim"))
    if name.endswith("/start"):
      spans(whole, name.removesuffix("/start"))
  if "video/frames" in whole:
    frames(whole)
  if "audio/pcm" in whole:
    require(len(whole["audio/pcm"][0]) % 2 == 0, "audio/pcm has an odd number of bytes")
    require(_number(whole, "audio/rate_hz") > 0, "sound without a rate")


def _flat(steps):
  if any(isinstance(s, np.ndarray) for s in steps):
    return np.concatenate([np.asarray(s) for s in steps])
  return [value for step in steps for value in step]


def _number(whole, name):
  values = whole.get(name, ())
  require(len(values) == 1, f"{name} is missing or no single number")
  return values[0]


def text(name: str, value: bytes) -> None:
  """UTF-8, with something to read, of bounded length, without NUL."""
  require(len(value) <= MAX_TEXT, f"{name} has {len(value)} bytes")
  try:
    decoded = value.decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"{name} is not UTF-8: {error.reason}") from None
  require(decoded.strip(), f"{name} is empty")
  require("\0" not in decoded, f"{name} holds a NUL")


def spans(whole: Mapping, name: str) -> None:
  """Texts with times in seconds: as many as texts, and no end before its start."""
  start, end = (np.asarray(whole.get(f"{name}/{k}", ())) for k in ("start", "end"))
  require(len(start) == len(end), f"{name}: {len(start)} starts, {len(end)} ends")
  require((end >= start).all(), f"{name}: an end before its start")
  if f"{name}/text" in whole:
    num = len(whole[f"{name}/text"])
    require(len(start) == num, f"{name}: {num} texts, {len(start)} times")


def frames(whole: Mapping) -> None:
  """Every frame decodes, in the stored size; times never decrease."""
  stored, times = whole["video/frames"], np.asarray(whole.get("video/times", ()))
  require(len(stored) > 0, "no frames")
  require(len(times) == len(stored), f"{len(stored)} frames, {len(times)} times")
  require((np.diff(times) >= 0).all(), "video/times decrease")
  size = tuple(int(_number(whole, f"video/{k}")) for k in ("height", "width"))
  for k, jpeg in enumerate(stored):
    try:
      array = image.decode(bytes(jpeg))
    except media.MediaError as error:
      raise ValueError(f"frame {k}: {error}") from None
    require(array.shape[:2] == size, f"frame {k} is {array.shape[:2]}, not {size}")


def regions(whole: Mapping, prefix: str) -> None:
  """Arrays of the declared sizes, finite; boxes in 0..1; classes and scores >= 0."""
  num, dim = (int(_number(whole, f"{prefix}/{k}")) for k in ("num", "dim"))
  require(num > 0, f"{prefix}: no regions")
  for field, (dtype, axis) in _REGIONS.items():
    if f"{prefix}/{field}" not in whole:
      continue
    raw, what = whole[f"{prefix}/{field}"], f"{prefix}/{field}"
    item = np.dtype(dtype).itemsize
    require(len(raw) == 1 and len(raw[0]) % (item * num) == 0, f"{what}: wrong size")
    array = np.frombuffer(raw[0], dtype).reshape(num, -1)
    wanted = {"dim": dim, "7": 7, "2": 2, "": 1}.get(axis, array.shape[1])
    require(array.shape[1] == wanted, f"{what} is {array.shape[1]} wide, not {wanted}")
    if dtype != "<i4":
      require(np.isfinite(array).all(), f"{what} is not finite")
    if field == "boxes":
      good = (array >= -1e-3).all() and (array <= 1 + 1e-3).all()
      require(good, f"{what}: a box lies outside of 0..1")
    elif field not in _SIGNED:
      require((array >= 0).all(), f"{what}: a number below 0")
