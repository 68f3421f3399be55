"""Region features made from true boxes and classes, in place of a detector's.

Whoever has scenes with known objects (generated pictures, NLVR) gets from here what
bottom-up attention gives for photographs: a feature per region, its box, class and
attribute, a confidence and a distribution over classes. The feature is

  f = relu(P[shape] + P[colour] + P[size] + P[class] + b . P[box] + noise)

with one fixed row of P for each name, b the box in -1..1. A row depends on its name, on
the column and on `seed` only (integer hashing, no random generator), so that features
are the same on every machine and in every version, and `dim` columns are the first of
those of a larger `dim`. What a region shows is never a one-hot that can be read off: a
model learns shape and colour from 2048 mixed numbers.

`noise` stands for the detector's: jittered confidences, hence another order of the
regions, and small errors of the feature, seeded by the key of the example.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import records
from data_pipelines.synthetic import box_scenes


class Classes(NamedTuple):
  """The world's words. Class 0 is the background, attribute 0 is none."""

  shapes: tuple[str, ...] = box_scenes.SHAPES
  colours: tuple[str, ...] = box_scenes.COLOURS
  sizes: tuple[str, ...] = box_scenes.SIZES

  @property
  def names(self) -> tuple[str, ...]:
    """C class names: "background", then shape, colour and size, the last fastest."""
    own = (
      f"{size} {colour} {shape}".strip()
      for shape in self.shapes
      for colour in self.colours
      for size in self.sizes
    )
    return ("background", *own)

  @property
  def attributes(self) -> tuple[str, ...]:
    """Attribute names: "none", then the colours."""
    return ("none", *self.colours)

  def index(self, o) -> int:
    """1..C-1, the class of an object.

    Raises: ValueError if its shape, colour or size is none of ours.
    """
    shape = self.shapes.index(o.shape)
    colour, size = self.colours.index(o.colour), self.sizes.index(o.size)
    return 1 + (shape * len(self.colours) + colour) * len(self.sizes) + size


NLVR = Classes()


class Regions(NamedTuple):
  """R regions by descending confidence.

  features: [R, D] float16, at least 0. boxes: [R, 7] float32, x1 y1 x2 y2 w h area in
  0..1. objects, attributes: [R] int32, 1..C-1 and ids of `Classes.attributes`. conf:
  [R] float32. probs: [R, C] float16 that sum to 1, index 0 = background.
  """

  features: np.ndarray
  boxes: np.ndarray
  objects: np.ndarray
  attributes: np.ndarray
  conf: np.ndarray
  probs: np.ndarray


def encode_boxes(boxes, width: float, height: float) -> np.ndarray:
  """[R, 4] x1 y1 x2 y2 in pixels -> [R, 7] float32 x1 y1 x2 y2 w h area in 0..1.

  The box of UNITER (arXiv 1909.11740): norm_bb of its files with the area appended.
  Raises: ValueError if a box leaves the picture or is empty.
  """
  b = np.asarray(boxes, np.float64).reshape(-1, 4) / (width, height, width, height)
  x1, y1, x2, y2 = b.T
  good = (x1 >= 0) & (y1 >= 0) & (x2 <= 1) & (y2 <= 1) & (x1 < x2) & (y1 < y2)
  if not good.all():
    bad = np.asarray(boxes, np.float64).reshape(-1, 4)[~good][0]
    raise ValueError(f"box {bad} is not inside a picture of {width} x {height} pixels.")
  w, h = x2 - x1, y2 - y1
  return np.stack([x1, y1, x2, y2, w, h, w * h], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=4096)
def _row(name: str, dim: int, seed: int) -> np.ndarray:
  """[dim] float32 in -1..1: a hash of (seed, name, column), splitmix64."""
  start = np.uint64(zlib.crc32(f"{seed}/{name}".encode()))
  with np.errstate(over="ignore"):
    z = (start << np.uint64(32)) + np.arange(1, dim + 1, dtype=np.uint64)
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
  row = ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32)
  row.flags.writeable = False
  return row


def projection(names: Sequence[str], *, dim: int = 2048, seed: int = 0) -> np.ndarray:
  """[len(names), dim] float32 in -1..1, the fixed rows of P."""
  return np.stack([_row(name, dim, seed) for name in names])


def _soft(rng, objects, conf, classes: Classes) -> np.ndarray:
  """[R, C] float16: `conf` on the true class, the rest mostly on like classes."""
  num = len(classes.names)
  sizes, colours = len(classes.sizes), len(classes.colours)
  index = np.arange(num - 1)
  parts = np.stack(
    [index // (sizes * colours), index // sizes % colours, index % sizes], axis=1
  )
  alike = (parts[objects - 1][:, None] == parts[None]).sum(axis=-1)  # [R, C-1]
  like = np.concatenate([np.ones((len(objects), 1)), 4.0**alike], axis=1)
  like *= rng.uniform(0.5, 1.5, like.shape) if rng is not None else 1.0
  rows = np.arange(len(objects))
  like[rows, objects] = 0.0
  probs = like / like.sum(axis=1, keepdims=True) * (1.0 - conf[:, None])
  probs[rows, objects] = conf
  return probs.astype(np.float16)


def features(
  objects: Sequence,
  *,
  size: tuple[float, float] = (box_scenes.WIDTH, box_scenes.HEIGHT),
  classes: Classes = NLVR,
  dim: int = 2048,
  seed: int = 0,
  noise: float = 0.05,
  key: str = "",
) -> Regions:
  """Regions of the objects, sorted by descending confidence.

  Args:
    objects: each has `shape`, `colour`, `size` (names) and `box` (x1, y1, x2, y2 in
      pixels).
    size: width and height of the picture in pixels.
    dim: D.
    seed: of the projection; features of two seeds have nothing in common.
    noise: standard deviation of the noise before the ReLU, where names give +-1. With 0
      every confidence is 0.9 and the order is that of `objects`.
    key: of the example; its crc32 seeds the noise.
  Raises: ValueError without objects, on an unknown name or a box outside the picture.
  """
  if not objects:
    raise ValueError(f"example {key!r} has no object; a picture has at least one.")
  boxes = encode_boxes([o.box for o in objects], *size)
  kinds = np.array([classes.index(o) for o in objects], np.int32)
  attributes = np.array(
    [1 + classes.colours.index(o.colour) for o in objects], np.int32
  )
  rng, conf = None, np.full(len(objects), 0.9)
  if noise:
    rng = np.random.RandomState(zlib.crc32(key.encode()))  # a stream numpy keeps
    conf = rng.uniform(0.6, 0.98, len(objects))
  named = [
    projection(
      [f"shape {o.shape}", f"colour {o.colour}", f"size {o.size}", f"class {kind}"],
      dim=dim,
      seed=seed,
    ).sum(axis=0)
    for o, kind in zip(objects, kinds, strict=True)
  ]
  place = projection([f"box {i}" for i in range(7)], dim=dim, seed=seed)
  value = np.stack(named) + (2 * boxes - 1) @ place
  if rng is not None:
    value += rng.normal(0.0, noise, value.shape)
  order = np.argsort(-conf, kind="stable")
  probs = _soft(rng, kinds, conf, classes)
  value = np.maximum(value, 0.0).astype(np.float16)
  found = Regions(value, boxes, kinds, attributes, conf.astype(np.float32), probs)
  return Regions(*(part[order] for part in found))


def entries(regions: Regions) -> Mapping[str, bytes | int]:
  """The `regions/...` entries of a text + regions record, little-endian bytes."""
  return {
    "regions/num": len(regions.conf),
    "regions/dim": regions.features.shape[1],
    "regions/features": regions.features.astype("<f2").tobytes(),
    "regions/boxes": regions.boxes.astype("<f4").tobytes(),
    "regions/objects": regions.objects.astype("<i4").tobytes(),
    "regions/attributes": regions.attributes.astype("<i4").tobytes(),
    "regions/conf": regions.conf.astype("<f4").tobytes(),
    "regions/probs": regions.probs.astype("<f2").tobytes(),
  }


COLUMNS = ("num_regions", "match", "kind", "real", "group")


def row(key: str, text: str, scene, *, match: bool, kind: str, real: bool) -> dict:
  """What `record` needs of a sentence about a `box_scenes.Scene`, JSON-able."""
  return {
    "key": key,
    "group": scene.name,
    "text": text,
    "match": int(match),
    "kind": kind,
    "real": int(real),
    "objects": [list(o) for o in scene.objects],
  }


def record(
  row: Mapping, *, dim: int, seed: int = 0, noise: float = 0.05
) -> tuple[bytes, dict]:
  """(SequenceExample bytes of kind text + regions, index columns) of a `row`.

  The index has `num_regions`, `match` and `real` (0 or 1), `kind` of statement and
  `group`, the name of the picture. Noise differs from row to row of one picture.
  """
  objects = [box_scenes.Object(*o) for o in row["objects"]]
  found = features(objects, dim=dim, seed=seed, noise=noise, key=row["key"])
  context = {k: row[k] for k in ("key", "group", "text", "match")}
  columns = {k: row[k] for k in ("match", "kind", "real", "group")}
  columns["num_regions"] = len(objects)
  return records.encode({**context, **entries(found)}), columns
