"""Features on disk in chunks, so that an extraction that was stopped goes on.

  <dir>/identity.json        what the features depend on
  <dir>/chunk-00000.npz      {name: [n, ...]} of some batches, whole or not at all

Chunks are batches of a fixed number; a damaged or missing one, and all after it, are
made again.
"""

import hashlib
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from vlp_jax import workdir

ROWS = 4096  # of a chunk, at most, but for one batch at least


def identity(about: Mapping[str, Any]) -> str:
  """16 hex digits of a mapping that json can hold."""
  text = json.dumps(about, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
  """The features of one set of rows; iterating reads them chunk by chunk.

  Args:
    root: directory of all stores; this one's is called by its identity.
    about: see `identity`. num_batches, rows: of the set, and of a batch.
  """

  def __init__(self, root, about: Mapping[str, Any], *, num_batches: int, rows: int):
    self.about, self.name = dict(about), identity(about)
    self.dir = epath.Path(root) / self.name
    self.per_chunk = max(1, ROWS // rows)
    self.num_batches = num_batches
    self.num_chunks = -(-num_batches // self.per_chunk)

  def path(self, chunk: int) -> epath.Path:
    return self.dir / f"chunk-{chunk:05d}.npz"

  def done(self) -> int:
    """Chunks from the first on that are there and whole; the same on all processes."""
    count = 0
    while count < self.num_chunks and self._read(count) is not None:
      count += 1
    return workdir.from_first(count)

  def fill(
    self,
    compute: Callable[[int, int], Mapping[str, np.ndarray]],
    advance: Callable[[int], None] = lambda batches: None,
  ) -> None:
    """Makes what is missing.

    Args:
      compute: (first batch, last + 1) -> {name: [n, ...]}; all processes call it.
      advance: told how many batches are done.
    """
    start = self.done()
    advance(min(start * self.per_chunk, self.num_batches))
    if jax.process_index() == 0 and start < self.num_chunks:
      self.dir.mkdir(parents=True, exist_ok=True)
      workdir.write_text(self.dir / "identity.json", workdir.dumps(self.about))
    for chunk in range(start, self.num_chunks):
      first = chunk * self.per_chunk
      last = min(first + self.per_chunk, self.num_batches)
      arrays = compute(first, last)
      if jax.process_index() == 0:
        self._write(chunk, arrays)
      advance(last)
    workdir.from_first(0)  # nobody reads before all is written

  def _write(self, chunk, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path = self.path(chunk)
    if "://" in os.fspath(path):
      path.write_bytes(buffer.getvalue())
      return
    partial = path.parent / f"{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)

  def _read(self, chunk) -> dict[str, np.ndarray] | None:
    path = self.path(chunk)
    if not path.exists():
      return None
    try:
      with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as z:
        return {k: z[k] for k in z.files}  # each with a check sum
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
      return None

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    for chunk in range(self.num_chunks):
      found = self._read(chunk)
      if found is None:
        raise FileNotFoundError(f"{self.path(chunk)} is missing or damaged; run again.")
      if len(next(iter(found.values()))):
        yield found


class Held:
  """Arrays in memory in the form of a store; `about` is their identity."""

  def __init__(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]):
    self.about, self.name, self.arrays = dict(about), identity(about), dict(arrays)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    yield self.arrays
