"""Regions of prepared records to arrays, in native TensorFlow ops.

A record holds one image under `regions/...` or two, the second under `regions2/...`:
num, dim, and bytes of features (float16 [R, D]), boxes (float32 [R, 7]) and, as far as
the file that they came from told them, objects, attributes (int32 [R]), conf,
attribute_conf (float32 [R]), probs (float16 [R, C]) and angles (float32 [R, 2]).
`regions_fields` of dataset_info.json says what was told; the rest of a record is zeros
and not given.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from data_pipelines import index, records
from data_pipelines.tasks import definition
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

# field -> (dtype, axis after R)
KINDS = {
  "features": (tf.float16, "D"),
  "boxes": (tf.float32, "7"),
  "objects": (tf.int32, ""),
  "conf": (tf.float32, ""),
  "attributes": (tf.int32, ""),
  "attribute_conf": (tf.float32, ""),
  "probs": (tf.float16, "C"),
  "angles": (tf.float32, "2"),
}
NEEDED, GIVEN = ("features", "boxes"), ("objects", "conf")  # GIVEN: where it is known
# On request, or an error.
ASKED = (*GIVEN, "probs", "attributes", "attribute_conf", "angles")
STREAMS = ("regions", "regions2")
PROBED = 64  # records looked at for what they hold


@dataclasses.dataclass(frozen=True)
class Stored:
  """What a split holds: names in the context of its records, known fields, widths."""

  context: frozenset[str]
  known: frozenset[str]
  dim: int
  classes: int

  @property
  def streams(self) -> tuple[str, ...]:
    return tuple(s for s in STREAMS if f"{s}/features" in self.context)


def stored(table: index.Table, info: Mapping) -> Stored:
  """What the first good records hold; UserError if none with regions can be read."""
  context, dim, classes = set(), 0, 0
  for k in range(min(len(table), PROBED)):
    with table.paths[table.file[k]].open("rb") as file:
      file.seek(int(table.offset[k]))
      try:
        found, _ = records.decode(next(records.read(file))[1])
        num, width = (int(found[f"regions/{name}"][0]) for name in ("num", "dim"))
        if num and not dim:
          dim = width
          classes = len(found.get("regions/probs", [b""])[0]) // (2 * num)
      except (ValueError, IndexError, KeyError, StopIteration):
        continue  # damaged: the stream reports it
    context |= set(found)
  if not dim:
    raise UserError(f"{table.dir} ({table.split}): no record with regions can be read.")
  said = info.get("regions_fields")
  inside = {name for name in KINDS if f"regions/{name}" in context}
  known = inside if said is None else inside & set(said)
  return Stored(frozenset(context), frozenset(known), dim, classes)


def chosen(table: index.Table, have: Stored, asked: Sequence[str]) -> tuple[str, ...]:
  """Fields of a batch: the needed ones, those that are known, and those asked for.

  Args:
    asked: batch keys, "regions_probs".
  Raises: UserError for an unknown field, or one that the data do not have.
  """
  names = {f"regions_{name}": name for name in ASKED}
  for key in asked:
    if key not in names:
      raise UserError(f"input.fields: {key!r}.{nearest(key, names)}")
    if names[key] not in have.known:
      raise UserError(
        f"{table.dir} has no {key.replace('_', '/', 1)}; leave {key} out of "
        f"input.fields. It has {', '.join(sorted(have.known))}."
      )
  given = [name for name in GIVEN if name in have.known]
  return tuple(dict.fromkeys([*NEEDED, *given, *(names[key] for key in asked)]))


@dataclasses.dataclass(frozen=True)
class Regions:
  """The regions of a stream as preprocessors.

  Attributes:
    stream: regions or regions2.
    names: fields. widths: of the axes "D" and "C"; others are numbers.
    most: regions kept, the first ones in stored order.
  """

  stream: str
  names: tuple[str, ...]
  widths: Mapping[str, int]
  most: int

  @property
  def features(self) -> dict:
    """For `tf.io.parse_single_sequence_example`."""
    whole = tf.io.FixedLenFeature([], tf.int64)
    raw = tf.io.FixedLenFeature([], tf.string)
    out = {f"{self.stream}/{name}": whole for name in ("num", "dim")}
    return out | {f"{self.stream}/{name}": raw for name in self.names}

  def width(self, axis: str) -> int:
    """Of an axis: "D", "C", or a number."""
    return int(axis) if axis.isdigit() else self.widths[axis]

  def shapes(self, count: int) -> dict[str, tuple[int, ...]]:
    """Batch key -> shape without B of `count` regions."""
    out = {f"{self.stream}_mask": (count,)}
    for name in self.names:
      axis = KINDS[name][1]
      out[f"{self.stream}_{name}"] = (count, self.width(axis)) if axis else (count,)
    return out

  @property
  def dtypes(self) -> dict[str, tf.DType]:
    out = {f"{self.stream}_{name}": KINDS[name][0] for name in self.names}
    return out | {f"{self.stream}_mask": tf.bool}

  def arrays(self, x: dict) -> dict:
    """Bytes to [R, ...] arrays, checked: widths, finite features, boxes in 0..1."""
    num, dim = x[f"{self.stream}/num"], self.widths["D"]
    same = x[f"{self.stream}/dim"] == dim
    definition.require(same, f"region features are not {dim} wide", x)
    out = {}
    for name in self.names:
      dtype, axis = KINDS[name]
      flat = tf.io.decode_raw(x[f"{self.stream}/{name}"], dtype)
      shape = [num, self.width(axis)] if axis else [num]
      value = tf.reshape(flat, tf.stack(shape))[: self.most]
      static = [None, self.width(axis)] if axis else [None]
      out[f"{self.stream}_{name}"] = tf.ensure_shape(value, static)
    finite = tf.reduce_all(tf.math.is_finite(out[f"{self.stream}_features"]))
    definition.require(finite, "region features are not finite", x)
    boxes = out[f"{self.stream}_boxes"]
    inside = tf.reduce_all((boxes >= -1e-3) & (boxes <= 1 + 1e-3))
    definition.require(inside, "a box lies outside of 0..1", x)
    size = tf.shape(boxes)[:1]
    return x | out | {f"{self.stream}_mask": tf.ones(size, tf.bool)}


def overlap(boxes: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
  """[R] intersection over union of boxes [R, >= 4] and one box [4], x1 y1 x2 y2."""
  low = tf.maximum(boxes[:, :2], box[:2])
  high = tf.minimum(boxes[:, 2:4], box[2:])
  both = tf.reduce_prod(tf.maximum(high - low, 0.0), axis=1)
  area = lambda b: tf.reduce_prod(b[..., 2:4] - b[..., :2], axis=-1)
  return tf.math.divide_no_nan(both, area(boxes) + area(box) - both)
