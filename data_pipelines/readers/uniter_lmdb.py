"""UNITER's LMDBs (arXiv 1909.11740): region features, and tokenised texts.

Features: an image set has a directory `feat_th0.2_max100_min10` (adaptive),
`feat_numbb36` (fixed) or `all`, with `_compressed` if values are .npz; keys are names
as `coco_val2014_000000000042.npz`, and `__keys__` is their JSON list. A value is a
msgpack map or an .npz of float16 arrays sorted by confidence,

  features [n, D]  norm_bb [n, 6] x1 y1 x2 y2 w h in 0..1  conf [n]
  soft_labels [n, C], index 0 = background

of which the first `nbb_th0.2_max100_min10.json`[name] count, a file beside the
directory; without it, min(max, max(min, #(conf > th))). The image size is not stored.

Texts: a directory of LMDB and `meta.json`; a value is an LZ4 frame of a msgpack map
with `input_ids` (no [CLS], [SEP]), `img_fname` (a name, or a list) and a target.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_pipelines.readers import lmdb_file, packed, regions
from vlp_jax import errors

KEYS = "__keys__"
_ADAPTIVE = re.compile(r"feat_(th([\d.]+)_max(\d+)_min(\d+))(_compressed)?")
_FIXED = re.compile(r"feat_numbb(\d+)(_compressed)?")


def _environment(path: pathlib.Path) -> pathlib.Path:
  """The LMDB at the path, or the only one directly below it."""
  if lmdb_file.is_file(path):
    return path
  found = sorted(p for p in path.glob("*") if p.is_dir() and lmdb_file.is_file(p))
  if len(found) != 1:
    names = ", ".join(p.name for p in found) or "none"
    raise errors.UserError(
      f"{path}: one LMDB directory is expected there, as feat_th0.2_max100_min10; "
      f"found {names}. Give its own path."
    )
  return found[0]


class Reader:
  """Region features; see the header.

  Args:
    path: the LMDB directory, or the image set's with one LMDB in it.
    conf_th, max_bb, min_bb: of the rule; those of the directory's name by default,
      else 0.2, 100 and 10.
  """

  def __init__(
    self,
    path,
    conf_th: float | None = None,
    max_bb: int | None = None,
    min_bb: int | None = None,
  ):
    at = _environment(pathlib.Path(path))
    self.file = lmdb_file.File(at)
    self.places, self.counts = {k: k for k in self._names()}, {}
    adaptive, fixed = _ADAPTIVE.fullmatch(at.name), _FIXED.fullmatch(at.name)
    rule, own = (0.2, 100, 10), (conf_th, max_bb, min_bb)
    if adaptive:
      rule = float(adaptive[2]), int(adaptive[3]), int(adaptive[4])
      if own == (None, None, None):
        self.counts = self._counts(at.parent / f"nbb_{adaptive[1]}.json")
    elif fixed:  # exactly so many, as if all were confident
      rule = -1.0, int(fixed[1]), int(fixed[1])
    self.rule = [a if b is None else b for a, b in zip(rule, own, strict=True)]

  def _names(self) -> list[str]:
    try:
      listed = self.file.get(KEYS)
      names = None if listed is None else json.loads(listed)
    except ValueError as error:
      raise errors.UserError(f"{self.file.path}: {KEYS} is no JSON: {error}.") from None
    if names is None:
      names = [k for k, _ in self.file.items(values=False)]
    if not isinstance(names, list) or not names:
      raise errors.UserError(f"{self.file.path} names no image.")
    return [str(k) for k in names if k != KEYS]

  def _counts(self, at) -> dict:
    if not at.is_file():
      return {}
    try:
      return {str(k): int(v) for k, v in json.loads(at.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
      raise errors.UserError(f"{at} is no map of names to counts: {error}.") from None

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    value = self.file.get(place)
    if value is None:
      raise ValueError(f"image {name}: named in {KEYS}, but not in {self.file.path}")
    try:
      x = packed.npz(value) if value[:2] == b"PK" else packed.msgpack(value)
      found = {
        k: x[k] for k in ("features", "norm_bb", "conf", "soft_labels") if k in x
      }
      boxes, conf = found.pop("norm_bb"), found.pop("conf", None)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"image {name}: {type(error).__name__} {error}") from None
    return make(name, found, boxes, conf, self.rule, self.counts.get(name))


def make(name, x, boxes, conf, rule, num=None) -> regions.Image:
  """An image of UNITER's arrays, cut to `num` or to what `rule` says."""
  for part in (boxes, conf, *x.values()):
    if part is not None and not hasattr(part, "shape"):
      raise ValueError(
        f"image {name}: {type(part).__name__} where an array is expected"
      )
  if "features" not in x or boxes.ndim != 2 or boxes.shape[1] < 4:
    raise ValueError(f"image {name}: features or norm_bb are missing or misshapen")
  if num is None:
    conf_th, most, least = rule
    num = min(len(boxes), most)
    if conf is not None:
      sizes = dict(max_regions=most, min_regions=least)
      num = regions.count(conf, conf_th=conf_th, **sizes)
  if not 0 < num <= len(boxes):
    raise ValueError(f"image {name}: {num} regions are asked for of {len(boxes)}")
  probs = x.get("soft_labels")
  return regions.make(
    name,
    x["features"][:num],
    boxes[:num, :4],  # width, height and area follow
    pixels=False,
    conf=None if conf is None else conf[:num],
    probs=None if probs is None else probs[:num],
  )


class Text(NamedTuple):
  """One example of a text LMDB. `fields`: everything stored, also the target."""

  key: str
  input_ids: list
  images: tuple[str, ...]
  fields: dict


def texts(path) -> Iterator[Text]:
  """All examples of a text LMDB, in the order of the keys.

  Raises: UserError if it is no such LMDB or an example is damaged.
  """
  file = lmdb_file.File(_environment(pathlib.Path(path)))
  for key, value in file.items():
    if key == KEYS:
      continue
    try:
      x = packed.msgpack(packed.lz4(value))
      images = x["img_fname"]
      images = (images,) if isinstance(images, str) else tuple(map(str, images))
      ids = x.get("input_ids", [])
      if not all(isinstance(i, int) for i in ids):
        raise ValueError("input_ids are no ids")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise errors.UserError(
        f"{file.path}, example {key}: {type(error).__name__} {error}."
      ) from None
    yield Text(key, ids, images, x)


def meta(path) -> dict:
  """`meta.json` of a text LMDB: ids of CLS, SEP, MASK, UNK, v_range, tokenizer.

  The tokenizer's name lies under `bert` or `toker`; here always under `tokenizer`.
  Raises: UserError if it is missing or no such file.
  """
  at = pathlib.Path(path) / "meta.json"
  try:
    found = json.loads(at.read_bytes())
    return found | {"tokenizer": found.get("bert") or found.get("toker") or ""}
  except (OSError, ValueError, TypeError, AttributeError) as error:
    raise errors.UserError(f"{at} cannot be read: {error}.") from None
