"""One image's regions, whatever file they come from, and the names images go by.

A reader of region features is a module `data_pipelines/readers/<format>.py` with

  class Reader:
    __init__(path, **options)   UserError if nothing can be read there
    places                      {image name: where it lies, a JSON value}
    read(name, place) -> Image  ValueError that names the image if it is damaged

Formats: bua_tsv, lxmert_tsv, uniter_lmdb, vilbert_lmdb, oscar_tsv, vlp_h5, vlbert_json,
boxes_npz, npz, panorama_tsv. What a file does not tell stays None; nothing is invented.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vlp_jax import errors, resolve

FORMATS = ("bua_tsv", "lxmert_tsv", "uniter_lmdb", "vilbert_lmdb", "oscar_tsv")
FORMATS += ("vlp_h5", "vlbert_json", "boxes_npz", "npz", "panorama_tsv")
# Of an image, one row a region.
ARRAYS = ("features", "boxes", "objects", "attributes", "conf", "attribute_conf")
ARRAYS += ("probs", "angles")
TOLERANCE = 1e-3  # of boxes beyond 0..1: rounded pixels; they are clipped
LARGEST = float(np.finfo(np.float16).max)


class Image(NamedTuple):
  """R regions of an image, R >= 1, in stored order; None is what the file lacks.

  features: [R, D] float16, finite. boxes: [R, 7] float32, x1 y1 x2 y2 w h area in 0..1.
  objects, attributes: [R] int32 from 1 on (0 = background, none). conf, attribute_conf:
  [R] float32 of these. probs: [R, C] float16, index 0 = background. angles: [R, 2]
  float32 heading and elevation in radians, of regions of a panorama. width, height:
  pixels. tags: class names. caption: where features and captions lie in one record.
  """

  name: str
  features: np.ndarray
  boxes: np.ndarray
  objects: np.ndarray | None = None
  attributes: np.ndarray | None = None
  conf: np.ndarray | None = None
  attribute_conf: np.ndarray | None = None
  probs: np.ndarray | None = None
  width: float | None = None
  height: float | None = None
  tags: tuple[str, ...] = ()
  caption: str = ""
  angles: np.ndarray | None = None


def encode_boxes(boxes, size=None, *, tolerance: float = TOLERANCE) -> np.ndarray:
  """[R, 4] x1 y1 x2 y2 -> [R, 7] float32 x1 y1 x2 y2 w h area in 0..1.

  Args:
    size: (width, height) of the image in pixels, None for boxes in 0..1.
    tolerance: how far beyond 0..1 a box may reach; it is clipped.
  Raises: ValueError for a box outside the image, turned around or not finite.
  """
  given = np.asarray(boxes, np.float64).reshape(-1, 4)
  if size is not None and not all(np.isfinite(n) and n > 0 for n in size):
    raise ValueError(f"image of {size[0]} x {size[1]} pixels")
  b = given if size is None else given / (*size, *size)
  x1, y1, x2, y2 = b.T
  inside = (b >= -tolerance).all(axis=1) & (b <= 1 + tolerance).all(axis=1)  # not NaN
  good = inside & (x1 <= x2) & (y1 <= y2)
  if not good.all():
    where = "0..1" if size is None else f"an image of {size[0]:g} x {size[1]:g} pixels"
    first = ", ".join(f"{v:g}" for v in given[~good][0])
    raise ValueError(f"box ({first}) is not inside {where}")
  x1, y1, x2, y2 = np.clip(b, 0.0, 1.0).T
  w, h = x2 - x1, y2 - y1
  return np.stack([x1, y1, x2, y2, w, h, w * h], axis=1).astype(np.float32)


def _column(name, what, value, num, dtype):
  value = np.asarray(value)
  if value.shape != (num,) or not np.isfinite(value).all():
    raise ValueError(f"image {name}: {what} of shape {value.shape} for {num} regions")
  return value.astype(dtype)


def make(
  name: str,
  features,
  boxes,
  *,
  size: tuple[float, float] | None = None,
  pixels: bool = True,
  tolerance: float = TOLERANCE,
  objects=None,
  attributes=None,
  conf=None,
  attribute_conf=None,
  probs=None,
  **more,
) -> Image:
  """An `Image` out of a file's arrays, checked.

  Args:
    features: [R, D]; boxes: [R, 4], in pixels of `size` or in 0..1.
    size: (width, height) in pixels if known.
    pixels: whether `boxes` are.
    objects, attributes, conf, attribute_conf, probs: as in `Image`; without `objects`,
      the class of `probs` with the highest score but the background's.
    **more: tags, caption, angles.
  Raises: ValueError that names the image: no regions, other lengths, NaN, boxes
    outside.
  """
  features = np.asarray(features)
  num = len(features) if features.ndim == 2 else 0
  if not num or not features.shape[1]:
    raise ValueError(f"image {name}: no regions, features of shape {features.shape}")
  if not (np.abs(features) <= LARGEST).all():
    raise ValueError(f"image {name}: features are NaN, infinite or beyond float16")
  boxes = np.asarray(boxes)
  if boxes.shape != (num, 4):
    raise ValueError(f"image {name}: boxes of shape {boxes.shape} for {num} regions")
  if pixels and size is None:
    raise ValueError(f"image {name}: boxes in pixels, but the image size is not told")
  try:
    boxes = encode_boxes(boxes, size if pixels else None, tolerance=tolerance)
  except ValueError as error:
    raise ValueError(f"image {name}: {error}") from None
  if probs is not None:
    probs = _probs(name, np.asarray(probs), num)
    objects = 1 + probs[:, 1:].argmax(axis=1) if objects is None else objects
  found = {"objects": objects, "attributes": attributes, "conf": conf}
  found["attribute_conf"] = attribute_conf
  for what, value in found.items():
    kind = np.float32 if what.endswith("conf") else np.int32
    if value is not None:
      found[what] = _column(name, what, value, num, kind)
      if found[what].min() < 0:
        raise ValueError(f"image {name}: {what} below 0")
  width, height = (None, None) if size is None else map(float, size)
  return Image(
    name,
    features.astype(np.float16),
    boxes,
    probs=None if probs is None else probs.astype(np.float16),
    width=width,
    height=height,
    **found,
    **more,
  )


def _probs(name, probs, num):
  good = probs.ndim == 2 and len(probs) == num and probs.shape[1] > 1
  good = good and np.isfinite(probs).all() and (probs >= 0).all()
  if not good or (np.abs(probs.sum(axis=1, dtype=np.float64) - 1) > 0.05).any():
    raise ValueError(
      f"image {name}: class probabilities of shape {probs.shape} for {num} regions are "
      "no distributions over background and classes"
    )
  return probs


def count(conf, *, conf_th: float, max_regions: int, min_regions: int) -> int:
  """How many regions UNITER keeps: min(max, max(min, #(conf > th))), at most all."""
  above = int((np.asarray(conf, np.float32) > np.float32(conf_th)).sum())
  return min(len(conf), max_regions, max(min_regions, above))


def select(
  image: Image, *, max_regions: int, min_regions: int = 10, conf_th: float = 0.0
) -> Image:
  """The most confident regions, in stored order; the first ones without `conf`.

  `conf_th` at or below 0 keeps all up to `max_regions`.
  """
  num = len(image.features)
  keep = np.arange(min(num, max_regions))
  if image.conf is not None:
    sizes = dict(max_regions=max_regions, min_regions=min_regions)
    if conf_th > 0:
      num = count(image.conf, conf_th=conf_th, **sizes)
    best = np.argsort(-image.conf, kind="stable")[: min(num, max_regions)]
    keep = np.sort(best)
  parts = {k: getattr(image, k) for k in ARRAYS}
  return image._replace(**{k: v[keep] for k, v in parts.items() if v is not None})


def entries(image: Image, prefix: str = "regions") -> dict[str, bytes | int]:
  """The `regions/...` entries of a text + regions record, little-endian bytes.

  Unknown classes and confidences are 0, so that a loss weighted by them is empty;
  `regions_fields` of dataset_info.json says which are known.
  """
  num = len(image.features)
  zeros = np.zeros(num, np.int32)
  arrays = {
    "features": (image.features, "<f2"),
    "boxes": (image.boxes, "<f4"),
    "objects": (zeros if image.objects is None else image.objects, "<i4"),
    "attributes": (zeros if image.attributes is None else image.attributes, "<i4"),
    "conf": (zeros if image.conf is None else image.conf, "<f4"),
  }
  if image.attribute_conf is not None:
    arrays["attribute_conf"] = (image.attribute_conf, "<f4")
  if image.probs is not None:
    arrays["probs"] = (image.probs, "<f2")
  if image.angles is not None:
    arrays["angles"] = (image.angles, "<f4")
  out = {f"{prefix}/{k}": v.astype(kind).tobytes() for k, (v, kind) in arrays.items()}
  return out | {f"{prefix}/num": num, f"{prefix}/dim": image.features.shape[1]}


@functools.lru_cache(maxsize=64)
def open_reader(kind: str, path: str, options: tuple[tuple[str, object], ...] = ()):
  """The reader of a format, opened once a process.

  Raises: UserError for an unknown format or option.
  """
  if kind not in FORMATS:
    raise errors.UserError(
      f"no region format {kind!r}.{resolve.nearest(kind, FORMATS)}"
    )
  module = resolve.module("data_pipelines.readers", kind)
  what = f"regions_format {kind}"
  return resolve.bind(module.Reader, dict(options), skip=1, what=what)(path)


_ENDING = re.compile(r"\.(npz|npy|json|jpe?g|png|gif|webp)$", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:[A-Za-z][A-Za-z0-9]*_)*0*(\d+)")


def plain(name: str) -> str:
  """The name of an image without what formats add to it.

  "COCO_val2014_000000000042.jpg", "coco_val2014_000000000042.npz", "42" -> "42";
  "nlvr2_dev-1-0-img0.npz" -> "dev-1-0-img0".
  """
  stem = _ENDING.sub("", str(name).replace("\\", "/").rsplit("/", 1)[-1])
  number = _NUMBERED.fullmatch(stem)
  return number[1] if number else stem.removeprefix("nlvr2_")


def lookup(names: Iterable[str]) -> Callable[[str], str | None]:
  """Finds an image by its own name, else by its plain one; None if there is none.

  The function raises UserError where several names of the file have that plain name.
  """
  known = set(names)
  short: Mapping[str, list[str]] = {}
  for name in sorted(known):
    short.setdefault(plain(name), []).append(name)

  def find(name: str) -> str | None:
    name = str(name)
    if name in known:
      return name
    found = short.get(plain(name), [])
    if len(found) > 1:
      raise errors.UserError(
        f"image {name} may be {', '.join(found[:3])} of the region files; prepare the "
        "image sets one by one."
      )
    return found[0] if found else None

  return find
