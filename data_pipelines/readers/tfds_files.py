"""Data sets that TensorFlow Datasets has built, read from their files.

A built set is a directory <data_dir>/<name>[/<config>]/<version> with

  features.json        the tree of features: a class name and its settings each
  dataset_info.json    name, fileFormat, splits [{name, filepathTemplate, shardLengths}]
  <name>-<split>.tfrecord-00000-of-00004   `tf.train.Example`s
  <feature>.labels.txt                     names of the classes

Nothing is downloaded or built, no code of a builder is run, TensorFlow is not needed.
Names of nested features are joined by "/".
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from data_pipelines import crc32c, index, records
from data_pipelines.readers import tables
from vlp_jax import errors, resolve

FEATURES, INFO = "features.json", "dataset_info.json"
KINDS = {  # entry of features.json -> what it is
  "video": "video",
  "image": "image",
  "audio": "audio",
  "text": "text",
  "classLabel": "label",
  "tensor": "tensor",
  "scalar": "tensor",
}
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class Feature(NamedTuple):
  """kind: a value of KINDS, or "other". many: several values a record. settings: its
  entry of features.json. names: of the classes of a label."""

  kind: str
  many: bool
  settings: Mapping
  names: tuple[str, ...] = ()


class Place(NamedTuple):
  """Where a record lies: shard (a file name), its number there, byte offset."""

  shard: str
  number: int
  offset: int


class DataSet:
  """One built version.

  Attributes:
    dir, name, version: of it. features: name -> Feature. splits: split -> file names.
  Raises: UserError if it is not there, or of a format that is not read.
  """

  def __init__(self, source, builder: str):
    self.dir = find(source, builder)
    info = tables.value(self.dir / INFO)
    self.name, self.version = str(info.get("name")), str(info.get("version"))
    kind = info.get("fileFormat", "tfrecord")
    if kind != "tfrecord":
      raise errors.UserError(
        f"{self.dir} is stored as {kind}; build it as tfrecord "
        "(tfds build --file_format=tfrecord)."
      )
    self.features = dict(_flat(self.dir, tables.value(self.dir / FEATURES)))
    self.splits = {}
    try:
      for split in info["splits"]:
        self.splits[split["name"]] = list(self._files(split))
    except (KeyError, TypeError) as error:
      raise errors.UserError(
        f"{self.dir / INFO}: {type(error).__name__} {error}."
      ) from None

  def _files(self, split) -> Iterator[str]:
    shards = split["shardLengths"]
    template = split.get("filepathTemplate") or (
      "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    for k in range(len(shards)):
      name = template.format_map(
        {
          "DATASET": self.name,
          "SPLIT": split["name"],
          "FILEFORMAT": "tfrecord",
          "SHARD_INDEX": f"{k:05d}",
          "NUM_SHARDS": f"{len(shards):05d}",
          "SHARD_X_OF_Y": f"{k:05d}-of-{len(shards):05d}",
        }
      )
      if pathlib.PurePath(name).name != name or not (self.dir / name).is_file():
        raise errors.UserError(f"{self.dir} has no file {name!r}; build it again.")
      yield name

  def places(self, split: str) -> Iterator[Place]:
    """All records of a split, in order."""
    for shard in self.splits[split]:
      offsets, _, _ = index.hop(self.dir / shard)
      yield from (Place(shard, n, int(at)) for n, at in enumerate(offsets))

  def of_kind(self, kind: str) -> list[str]:
    """Names of the features of a kind; a label is one a record, not of its objects."""
    fits = lambda f: f.kind == kind and not (kind == "label" and f.many)
    return [name for name, f in self.features.items() if fits(f)]


def find(source, builder: str) -> pathlib.Path:
  """The directory of a built version.

  Args:
    source: the data_dir, or the version's own directory.
    builder: name, name/config, name:1.0.0 or name/config:1.0.0; the newest version, and
      the only config, by default.
  Raises: UserError that says what is there.
  """
  source = pathlib.Path(source)
  if not source.is_dir():
    raise errors.UserError(f"source {source} is no directory.")
  if not builder and (source / FEATURES).is_file():
    return source
  if not builder:
    raise errors.UserError(f"give --builder, one of {_known(source)}.")
  path, _, version = builder.partition(":")
  at = source / path
  if not at.resolve().is_relative_to(source.resolve()):
    raise errors.UserError(f"builder {builder!r} lies outside of {source}.")
  found = sorted(p.parent for p in at.rglob(FEATURES)) if at.is_dir() else []
  found = [p for p in found if _VERSION.fullmatch(p.name)]
  wanted = [p for p in found if p.name == version] if version else found
  if not wanted:
    have = ", ".join(str(p.relative_to(source)) for p in found) or _known(source)
    raise errors.UserError(
      f"{source} has no built data set {builder!r}; there are: {have}. Nothing is "
      "downloaded here: build it with tfds.builder(...).download_and_prepare() first."
    )
  configs = {p.parent for p in wanted}
  if len(configs) > 1:
    names = ", ".join(str(p.relative_to(source)) for p in sorted(configs))
    raise errors.UserError(f"builder {builder!r} has several configs: {names}.")
  return max(wanted, key=lambda p: [int(n) for n in p.name.split(".")])


def _known(source) -> str:
  found = sorted({p.parent for p in source.glob(f"*/**/{FEATURES}")})
  return ", ".join(str(p.relative_to(source)) for p in found[:20]) or "none"


def _flat(dir, node, name="", many=False) -> Iterator[tuple[str, Feature]]:
  """(name, Feature) of the leaves of a tree of features."""
  if not isinstance(node, dict):
    raise errors.UserError(f"{dir / FEATURES}: no features at {name or 'its top'}.")
  if "featuresDict" in node:
    for key, child in node["featuresDict"].get("features", {}).items():
      yield from _flat(dir, child, f"{name}/{key}".lstrip("/"), many)
    return
  if "sequence" in node:
    yield from _flat(dir, node["sequence"].get("feature"), name, True)
    return
  kind = next((k for k in KINDS if k in node), "")
  settings = node.get(kind) or {}
  names = ()
  if kind == "classLabel":
    names = _classes(dir, name, int(settings.get("numClasses", 0)))
  yield name, Feature(KINDS.get(kind, "other"), many, settings, names)


def _classes(dir, name, num) -> tuple[str, ...]:
  for own in (name.replace("/", "-"), name.replace("/", "."), name.rpartition("/")[2]):
    at = dir / f"{own}.labels.txt"
    if at.is_file():
      return tuple(line for line in tables.read(at).splitlines() if line)
  return tuple(str(k) for k in range(num))


def read(dir, place: Place) -> dict[str, np.ndarray | list[bytes]]:
  """Feature -> values of one record; ValueError if it is damaged."""
  with (pathlib.Path(dir) / place.shard).open("rb") as f:
    f.seek(place.offset)
    head = f.read(records.HEADER)
    size = int.from_bytes(head[:8], "little")
    body = f.read(size + records.FOOTER)
  where = f"{place.shard}, record {place.number}"
  payload, crc = body[:size], body[size:]
  if len(body) < size + records.FOOTER:
    raise ValueError(f"{where}: it is cut off")
  if crc != crc32c.masked(payload).to_bytes(records.FOOTER, "little"):
    raise ValueError(f"{where}: its checksum is wrong")
  try:
    # A tf.train.Example has the layout of a SequenceExample without lists.
    return records.decode(payload)[0]
  except (ValueError, IndexError, KeyError) as error:
    raise ValueError(f"{where}: no tf.train.Example ({error})") from None


def pick(data: DataSet, given: str, kinds: tuple[str, ...], what: str) -> str:
  """The feature called `given`, or else the first of the kinds; "" if there is none."""
  if given and given not in data.features:
    hint = resolve.nearest(given, data.features)
    raise errors.UserError(f"{what}: {data.name} has no feature {given!r}.{hint}")
  return given or next((n for kind in kinds for n in data.of_kind(kind)), "")
