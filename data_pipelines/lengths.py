"""Numbers of every record that one scan finds: tokens, regions, images.

A scan takes the time of reading the data once, so its result stays beside the shards,
under the hash of the data and of what was measured.
"""

import hashlib
import io
import os
from collections.abc import Callable, Mapping

import numpy as np
from absl import logging

from data_pipelines import index, read


def scan(
  table: index.Table, version: str, fn: Callable, measure: Callable
) -> dict[str, np.ndarray]:
  """name -> [N] int32 of all records of a split.

  Args:
    version: of `fn` and `measure`: vocabularies, settings, their code.
    fn: serialised record -> dict of scalar tensors with `group`, a string.
    measure: dict of [n] arrays of these -> dict of [n] int arrays.
  Returns: what `measure` says, and `group`: equal numbers for equal strings. Damaged
    records count as the smallest of the others, and then nothing is kept.
  """
  key = hashlib.sha256(f"{table.fingerprint} {version}".encode()).hexdigest()[:16]
  path = table.dir / f"{table.split}.lengths-{key}.npz"
  if path.exists():
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as z:
      return {k: z[k] for k in z.files}
  groups, bad, found = np.full(len(table), b"", object), np.ones(len(table), bool), {}
  for part in read.scan(table, fn):
    at = part["index"]
    for name, sizes in measure(part).items():
      whole = found.setdefault(name, np.zeros(len(table), np.int32))
      whole[at] = sizes
    groups[at], bad[at] = part["group"], False
  for sizes in found.values():
    sizes[bad] = sizes[~bad].min(initial=np.iinfo(np.int32).max)
  found["group"] = np.unique(groups, return_inverse=True)[1].astype(np.int32)
  if not bad.any():
    _keep(path, found)
  return found


def _keep(path, arrays: Mapping[str, np.ndarray]) -> None:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
  try:
    partial.write_bytes(buffer.getvalue())
    partial.rename(path)
  except OSError as error:
    logging.info("lengths stay in memory, %s cannot be written: %s", path, error)
