"""Shards and where their records lie: writing, finding and fingerprinting them.

A data set is a directory with `dataset_info.json`, uncompressed TFRecord shards
`<split>-00000-of-00004.tfrecord`, and beside each shard `<...>.index.npz`: offset,
length and crc of each record, and the columns by which examples are filtered. With it
any record is read at once, and a damaged one costs itself alone. TensorFlow is not
needed here.

  writer = ShardWriter(out, "train", 4, columns=("gallery",))
  writer.write(k % 4, serialized, gallery=0)
  writer.close()
  write_info(out, {"name": "mine", "kind": "narrated_clips", "splits": ["train"]})
"""

import dataclasses
import hashlib
import io
import json
import os
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from data_pipelines import crc32c, records
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

SCHEMA_VERSION = 1
INFO = "dataset_info.json"
_OWN = ("offset", "length", "crc")  # of every index, beside the columns


def shard_name(split: str, shard: int, num_shards: int) -> str:
  """`train-00000-of-00004.tfrecord`."""
  return f"{split}-{shard:05d}-of-{num_shards:05d}.tfrecord"


def index_path(shard) -> epath.Path:
  """The index that lies beside a shard."""
  shard = epath.Path(shard)
  return shard.parent / f"{shard.name.removesuffix('.tfrecord')}.index.npz"


def _commit(partial, final) -> None:
  partial.replace(final)  # rename refuses an existing file


def _write_bytes(path, data: bytes) -> None:
  """A whole file or none: written beside, synced, renamed."""
  path = epath.Path(path)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
  with partial.open("wb") as f:
    f.write(data)
    _sync(f)
  _commit(partial, path)


def _sync(f) -> None:
  f.flush()
  try:
    os.fsync(f.fileno())
  except (AttributeError, OSError, io.UnsupportedOperation):
    return  # object stores have no file descriptor: closing commits


def _save_index(shard, offset, length, crc, columns: Mapping[str, Sequence]) -> None:
  arrays = {
    "offset": np.asarray(offset, np.int64),
    "length": np.asarray(length, np.int64),
    "crc": np.asarray(crc, np.uint32),
  }
  for name, values in columns.items():
    arrays[name] = np.asarray(values)
    if arrays[name].dtype.kind not in "biufU":
      raise TypeError(f"column {name!r} holds {arrays[name].dtype}: numbers or str.")
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  _write_bytes(index_path(shard), buffer.getvalue())


class ShardWriter:
  """Writes shards of one split with their indices, each whole or not at all.

  A shard is complete when its index is there: the shard is renamed into place first,
  its index second, and an index of an earlier run is removed before. Leaving a `with`
  block by an error discards what was not closed.

  Args:
    dir: directory, local or gs://; made if missing.
    split: "train", "test", ...
    num_shards: of the whole split.
    columns: names of the filter columns; every `write` gives all of them.
    only: the shards this writer makes (one worker one shard); None for all. Each of
      them exists after `close`, if need be empty.
  """

  def __init__(
    self,
    dir,
    split: str,
    num_shards: int,
    *,
    columns: Sequence[str] = (),
    only: Sequence[int] | None = None,
  ):
    bad = set(columns) & set(_OWN)
    if bad or num_shards < 1:
      raise ValueError(f"{bad or num_shards}: columns may not be {_OWN}; shards >= 1.")
    self.dir, self.split, self.num_shards = epath.Path(dir), split, num_shards
    self.columns = tuple(columns)
    self.shards = tuple(range(num_shards) if only is None else only)
    self.dir.mkdir(parents=True, exist_ok=True)
    self._open = {}  # shard -> (path, partial path, file, rows)

  def path(self, shard: int) -> epath.Path:
    """Where a shard lies once it is closed."""
    return self.dir / shard_name(self.split, shard, self.num_shards)

  def _file(self, shard):
    if shard not in self.shards:
      raise ValueError(f"shard {shard} is none of this writer's {self.shards}.")
    if shard not in self._open:
      path = self.path(shard)
      partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
      rows = {name: [] for name in (*_OWN, *self.columns)}
      self._open[shard] = path, partial, partial.open("wb"), rows
    return self._open[shard]

  def write(self, shard: int, serialized: bytes, **columns) -> None:
    """Appends a record; `columns` are its numbers or strings for the index."""
    if set(columns) != set(self.columns):
      raise ValueError(f"columns {sorted(columns)}; expected {sorted(self.columns)}.")
    _, _, file, rows = self._file(shard)
    framed = records.frame(serialized)
    own = (file.tell(), len(serialized), struct.unpack("<I", framed[-4:])[0])
    for name, value in (*zip(_OWN, own, strict=True), *columns.items()):
      rows[name].append(value)
    file.write(framed)

  def close(self) -> None:
    """Renames shards and indices into place."""
    for shard in self.shards:
      path, partial, file, rows = self._file(shard)
      _sync(file)
      file.close()
      index_path(path).unlink(missing_ok=True)
      _commit(partial, path)
      _save_index(path, **{k: rows.pop(k) for k in _OWN}, columns=rows)
      del self._open[shard]

  def discard(self) -> None:
    """Removes what is not closed."""
    for _, partial, file, _ in self._open.values():
      file.close()
      partial.unlink(missing_ok=True)
    self._open = {}

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, kind, *_) -> None:
    self.close() if kind is None else self.discard()


def hop(shard) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(offset, length, crc) of a TFRecord file by hopping over its headers.

  For files that `prepare` did not write. Reads 16 bytes a record. A damaged length
  stops it, since what follows cannot be found any more.
  Raises: UserError naming the offset.
  """
  rows, at = [], 0
  with epath.Path(shard).open("rb") as f:
    size = f.seek(0, os.SEEK_END)
    while at < size:
      f.seek(at)
      head = f.read(records.HEADER)
      length = int.from_bytes(head[:8], "little")
      end = at + records.HEADER + length + records.FOOTER
      known = struct.pack("<I", crc32c.masked(head[:8])) == head[8:]
      if not known or end > size:
        raise UserError(
          f"{shard}: damaged or truncated record at {at} of {size} bytes."
        )
      f.seek(end - records.FOOTER)
      rows.append((at, length, int.from_bytes(f.read(records.FOOTER), "little")))
      at = end
  table = np.array(rows, np.int64).reshape(-1, 3)
  return table[:, 0], table[:, 1], table[:, 2].astype(np.uint32)


def write_index(shard) -> None:
  """Makes the missing index of a foreign TFRecord file, without columns."""
  offset, length, crc = hop(shard)
  _save_index(shard, offset, length, crc, {})


@dataclasses.dataclass(frozen=True)
class Table:
  """All records of a split, in the order of shards and offsets.

  Attributes:
    dir, split: where.
    paths: of the shards.
    file, offset, length: [N] shard number, byte offset and payload bytes of a record.
    columns: name -> [N].
    fingerprint: hex sha256 over shard names, lengths and crcs: any change shows.
  """

  dir: epath.Path
  split: str
  paths: tuple[epath.Path, ...]
  file: np.ndarray
  offset: np.ndarray
  length: np.ndarray
  columns: Mapping[str, np.ndarray]
  fingerprint: str

  def __len__(self) -> int:
    return len(self.offset)

  def select(self, where: Mapping) -> np.ndarray:
    """[n] int64, the records whose columns have the given value, or one of a list.

    A mapping `dict(least=2.0, below=8.0)` is a range, of which either end may lack;
    the column "record" is the number of a record, so that `record=dict(below=600)` are
    the first 600.
    Raises: UserError on an unknown column, or another key of a range.
    """
    keep, columns = np.ones(len(self), bool), {"record": np.arange(len(self))}
    columns |= self.columns
    for name, value in where.items():
      if name not in columns:
        raise UserError(
          f"where: {self.dir} ({self.split}) has no column {name!r}."
          f"{nearest(name, columns)}"
        )
      if not isinstance(value, Mapping):
        keep &= np.isin(columns[name], np.atleast_1d(value))
        continue
      if not value or set(value) - {"least", "below"}:
        raise UserError(f"where.{name}={dict(value)}: give least, below, or both.")
      keep &= columns[name] >= value.get("least", -np.inf)
      keep &= columns[name] < value.get("below", np.inf)
    return np.flatnonzero(keep)

  def place(self, record: int) -> dict:
    """Where a record lies, for reports."""
    name = self.paths[self.file[record]].name
    return {"shard": name, "offset": int(self.offset[record]), "index": int(record)}


def _shards(dir, split):
  dir = epath.Path(dir)
  if not dir.is_dir():
    raise UserError(f"data directory {dir} is missing; make it with prepare.")
  paths = sorted(dir.glob(f"{split}-*-of-*.tfrecord"))
  if not paths:
    found = {p.name.rsplit("-", 3)[0] for p in dir.glob("*-of-*.tfrecord")}
    raise UserError(f"{dir} has no shards of split {split!r}.{nearest(split, found)}")
  num = int(paths[0].name.removesuffix(".tfrecord").rsplit("-", 1)[1])
  want = [shard_name(split, s, num) for s in range(num)]
  if [p.name for p in paths] != want:
    gone = sorted(set(want) - {p.name for p in paths}) or "other shard counts mixed in"
    raise UserError(f"{dir}: split {split!r} is incomplete: {gone}. Run prepare again.")
  return paths


def load(dir, split: str) -> Table:
  """The table of a split. A shard without an index is hopped over, in memory.

  Raises: UserError if the directory, the split or a shard is missing, an index is
    damaged, or the indices differ in their columns.
  """
  dir, paths, parts = epath.Path(dir), _shards(dir, split), []
  digest = hashlib.sha256()
  for path in paths:
    at = index_path(path)
    if at.exists():
      try:
        with np.load(io.BytesIO(at.read_bytes()), allow_pickle=False) as z:
          part = {k: z[k] for k in z.files}
      except (ValueError, OSError, KeyError) as error:
        raise UserError(f"{at} is no index ({error}); remove it.") from None
    else:
      part = dict(zip(_OWN, hop(path), strict=True))
    if parts and set(part) != set(parts[0]):
      raise UserError(f"{at}: columns {sorted(part)}, others have {sorted(parts[0])}.")
    digest.update(path.name.encode())
    digest.update(part["length"].astype("<i8").tobytes())
    digest.update(part["crc"].astype("<u4").tobytes())
    parts.append(part)
  count = [len(p["offset"]) for p in parts]
  whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
  whole.pop("crc")
  file = np.repeat(np.arange(len(paths), dtype=np.int32), count)
  own = {k: whole.pop(k) for k in ("offset", "length")}
  return Table(
    dir, split, tuple(paths), file, **own, columns=whole, fingerprint=digest.hexdigest()
  )


def write_info(dir, info: Mapping) -> dict:
  """Writes `dataset_info.json`, with what the shards tell filled in.

  Args:
    info: name, kind, licence, settings ...; `splits` names the splits (a list or a
      dict). num_examples and shards of each, schema_version and fingerprint are added.
  Returns: what was written.
  """
  tables = {split: load(dir, split) for split in info["splits"]}
  given = info["splits"] if isinstance(info["splits"], Mapping) else {}
  splits = {
    split: {**given.get(split, {}), "num_examples": len(t), "shards": len(t.paths)}
    for split, t in tables.items()
  }
  whole = "".join(f"{s} {t.fingerprint}\n" for s, t in sorted(tables.items()))
  out = {"schema_version": SCHEMA_VERSION, **info, "splits": splits}
  out["fingerprint"] = hashlib.sha256(whole.encode()).hexdigest()
  text = json.dumps(out, indent=2, sort_keys=True, ensure_ascii=False)
  _write_bytes(epath.Path(dir) / INFO, f"{text}\n".encode())
  return out


def read_info(dir) -> dict:
  """`dataset_info.json` as a dict.

  Raises: UserError if it is missing, is no JSON object, or of a newer schema.
  """
  path = epath.Path(dir) / INFO
  if not path.is_file():
    raise UserError(f"{path} is missing: {dir} is not a prepared data set.")
  try:
    info = json.loads(path.read_text())
  except ValueError as error:
    raise UserError(f"{path} is not JSON: {error}.") from None
  if not isinstance(info, dict) or info.get("schema_version") != SCHEMA_VERSION:
    found = info.get("schema_version") if isinstance(info, dict) else type(info)
    raise UserError(f"{path}: schema_version {found}; expected {SCHEMA_VERSION}.")
  return info
