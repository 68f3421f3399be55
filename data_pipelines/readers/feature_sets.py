"""Features of clips as one long table of rows, for clustering: shards, arrays, HDF5.

  a prepared data set of kind `clip_features`, as `launch.extract` and `prepare
  clip_features` make it: the rows of one of its networks
  a directory of .npy and .npz files, sub-directories as well, or one such file: arrays
  [n, D] or [D] of float16, bfloat16, float32 or float64; never pickles
  .h5 or .hdf5 files: their float data sets [n, D] (needs the package h5py)

`Features` is a re-iterable of [n, D] arrays in a fixed random order of pieces, so that
neighbours in a mini-batch are not all of one video; files are mapped, not loaded. The
first pass checks checksums, widths and that all numbers are finite.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines import crc32c, index, quarantine, records
from vlp_jax import errors
from vlp_jax.formats import read as read_lib

BLOCK = 1024  # rows of a piece of a large array
ENDINGS = (".npy", ".npz", ".h5", ".hdf5")


class Piece(NamedTuple):
  """Some rows: of array `name` of a file, or all of record `start` of the shards."""

  file: str
  name: str
  start: int
  stop: int


class Features:
  """See the header.

  Args:
    path: of the data set, directory or file.
    split: of a data set; "" takes `train`, or all if there is none.
    network: of a data set, 0 for its first.
    seed: of the order of the pieces.
  Attributes:
    width: D. identity: hex digest that changes with the data and their order.
    lost: record -> reason, of damaged records, which are left out.
  Raises: UserError if there is nothing, or it is of several widths;
    while read, UserError for NaN and DataBudgetError for too many damaged records.
  """

  def __init__(self, path, *, split: str = "", network: int = 0, seed: int = 0):
    self.path, self.network = pathlib.Path(path), network
    self.tables, self.quarantines, self.checked, self.width = {}, {}, False, 0
    self._mapped = ("", None)  # the file that was opened last
    if (self.path / index.INFO).is_file():
      pieces, what = self._records(split)
    elif self.path.exists():
      pieces, what = self._arrays()
    else:
      raise errors.UserError(
        f"--features {path}: no such file or directory. Make it with launch.extract, "
        "or with data_pipelines.prepare clip_features."
      )
    if not pieces:
      raise errors.UserError(f"{path} holds no features ({', '.join(ENDINGS)}).")
    self.natural = pieces
    order = np.random.default_rng((seed, len(pieces))).permutation(len(pieces))
    self.pieces = [pieces[i] for i in order]
    text = json.dumps([what, network, seed, len(pieces)])
    self.identity = hashlib.sha256(text.encode()).hexdigest()

  @property
  def lost(self) -> dict:
    return {(s, r): e for s, q in self.quarantines.items() for r, e in q.bad.items()}

  def _records(self, split):
    info = index.read_info(self.path)
    networks = info.get("features") or ()
    if info.get("kind") != "clip_features" or self.network >= len(networks):
      raise errors.UserError(
        f"{self.path} is of kind {info.get('kind')!r} with {len(networks)} networks; "
        "clip_features are expected. Run launch.extract on it first."
      )
    self.width = int(networks[self.network]["width"])
    known = info["splits"]
    splits = [split] if split else ["train"] if "train" in known else sorted(known)
    pieces = []
    for name in splits:
      self.tables[name] = table = index.load(self.path, name)
      self.quarantines[name] = quarantine.Quarantine(table)
      pieces += [Piece(name, "", i, i + 1) for i in range(len(table))]
    return pieces, [(s, t.fingerprint) for s, t in self.tables.items()]

  def _arrays(self):
    root = self.path
    files = [root] if root.is_file() else sorted(root.rglob("*"))
    files = [f for f in files if f.is_file() and f.suffix in ENDINGS]
    pieces, what = [], []
    for file in files:
      state = file.stat()
      what.append((str(file.relative_to(root)), state.st_size, state.st_mtime_ns))
      for name, shape in self._shapes(file):
        self._same(shape[-1], f"{file} {name}".strip())
        rows = 1 if len(shape) == 1 else shape[0]
        # An archive is unpacked as a whole: it is one piece.
        step = max(rows, 1) if file.suffix == ".npz" else BLOCK
        pieces += [
          Piece(str(file), name, i, min(i + step, rows)) for i in range(0, rows, step)
        ]
    return pieces, what

  def _same(self, width, where):
    self.width = self.width or width
    if width != self.width or not width:
      raise errors.UserError(
        f"{where} has width {width}, those before {self.width}: cluster features of "
        "one network at a time."
      )

  def _shapes(self, file):
    """(name, shape) of the arrays of a file."""
    opened = self._open(str(file))
    found = opened if isinstance(opened, dict) else {"": opened}
    for name, x in found.items():
      kind = read_kind(x.dtype)
      if x.ndim not in (1, 2) or not kind:
        raise errors.UserError(
          f"{file} {name} is {x.dtype}{list(x.shape)}; floats [n, D] are expected."
        )
      yield name, x.shape

  def _open(self, file: str):
    """The array, or {name: array}, of a file, mapped where it can be."""
    if self._mapped[0] != file:
      self._mapped = file, _load(pathlib.Path(file))
    return self._mapped[1]

  def read(self, piece: Piece, *, check: bool = True) -> np.ndarray | None:
    """[n, D] rows of a piece; None of a damaged record."""
    if self.tables:
      return self._record(piece, check)
    x = self._open(piece.file)
    x = np.atleast_2d(x[piece.name] if isinstance(x, dict) else x)
    x = np.asarray(x[piece.start : piece.stop])
    if check and not np.isfinite(x.astype(np.float32, copy=False)).all():
      raise errors.UserError(
        f"{piece.file} {piece.name}: rows {piece.start} to {piece.stop} are not all "
        "finite (NaN or infinite)."
      )
    return x

  def _record(self, piece, check):
    table, bad = self.tables[piece.file], self.quarantines[piece.file]
    if piece.start in bad.bad:
      return None
    try:
      return self._features(table, piece.start, check)
    except (ValueError, IndexError, KeyError) as error:
      bad.add(piece.start, f"{type(error).__name__} {error}")
      return None

  def _features(self, table, record, check):
    shard = str(table.paths[table.file[record]])
    if self._mapped[0] != shard:
      self._mapped = shard, np.memmap(shard, np.uint8, "r")
    begin = int(table.offset[record]) + records.HEADER
    end = begin + int(table.length[record])
    data = self._mapped[1][begin : end + records.FOOTER].tobytes()
    payload, crc = data[: end - begin], data[end - begin :]
    if check and crc != crc32c.masked(payload).to_bytes(4, "little"):
      raise ValueError("the checksum of the record is wrong")
    context, _ = records.decode(payload)
    part = f"features/{self.network}"
    num, width = (int(context[f"{part}/{k}"][0]) for k in ("num", "width"))
    if width != self.width:
      raise ValueError(f"features of width {width}, others have {self.width}")
    x = np.frombuffer(context[f"{part}/data"][0], "<f2").reshape(num, width)
    if check and not np.isfinite(x).all():
      raise ValueError("features are not finite")
    return x

  def __iter__(self) -> Iterator[np.ndarray]:
    check = not self.checked
    for piece in self.pieces:
      x = self.read(piece, check=check)
      if x is not None and len(x):
        yield x
    self.checked = True

  def items(self) -> Iterator[tuple[str, np.ndarray]]:
    """(key, [n, D]) in the order of the files: keys of records, or file and name."""
    for piece in self.natural:
      x = self.read(piece)
      if x is None:
        continue
      key = f"{piece.file}:{piece.name}".rstrip(":")
      if self.tables:
        table = self.tables[piece.file]
        key = record_key(table, piece.start)
      yield key, x


def record_key(table: index.Table, record: int) -> str:
  """The key of a record, read from its shard."""
  with open(table.paths[table.file[record]], "rb") as f:
    f.seek(int(table.offset[record]) + records.HEADER)
    context, _ = records.decode(f.read(int(table.length[record])))
  return context["key"][0].decode()


def read_kind(dtype) -> bool:
  """Whether numbers of this dtype are features: floats, also bfloat16."""
  return np.dtype(dtype).kind == "f" or np.dtype(dtype).name == "bfloat16"


def _load(file: pathlib.Path):
  if file.suffix == ".npy":
    try:
      return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
      reason = " ".join(str(error).split())[:200]
      raise errors.UserError(f"{file} is no array that can be read: {reason}") from None
  if file.suffix == ".npz":
    return read_lib.read(file)
  try:
    import h5py
  except ImportError:
    raise errors.UserError(
      f"{file}: HDF5 files need the package h5py: pip install -r requirements.txt"
    ) from None
  try:
    opened, found = h5py.File(file, "r", locking=False), {}
    take = lambda name, x: found.update({name: x} if hasattr(x, "shape") else {})
    opened.visititems(take)
  except OSError as error:
    raise errors.UserError(f"{file} cannot be read as HDF5: {error}.") from None
  return {k: x for k, x in sorted(found.items()) if x.ndim in (1, 2)}
