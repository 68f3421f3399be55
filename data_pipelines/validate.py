"""Reads a whole data set and says what is wrong: python -m data_pipelines.validate DIR.

Every record is found by its index, its checksums are computed, it is parsed, frames are
decoded, arrays and texts are looked at (`checks.py`). The index must agree with the
shards, counts and fingerprint with dataset_info.json. Each bad record is a line: file,
offset, place, key, reason.

Exit codes: 0 all is well, 2 DIR is no data set, 3 something is damaged.
"""

import functools
import hashlib
import io
import os
import struct
import sys
from typing import NamedTuple

import numpy as np

from data_pipelines import checks, command, crc32c, index, progress, records
from data_pipelines.prepare import workers
from vlp_jax import errors


class Problem(NamedTuple):
  """Where something is wrong (offset -1: with the file as a whole), and what."""

  shard: str
  offset: int
  record: int
  key: str
  reason: str

  def __str__(self) -> str:
    if self.offset < 0:
      return f"{self.shard}: {self.reason}"
    key = f", key {self.key}" if self.key else ""
    where = f"{self.shard} at {self.offset} (record {self.record}{key})"
    return f"{where}: {self.reason}"


def _payload(file, offset, length, crc):
  """A record by its index entry; ValueError if framing or checksums differ."""
  file.seek(offset)
  head = file.read(records.HEADER)
  checks.require(len(head) == records.HEADER, "the file ends before it")
  found, head_crc = struct.unpack("<QI", head)
  checks.require(crc32c.masked(head[:8]) == head_crc, "damaged length")
  checks.require(found == length, f"its length is {found}, in the index {length}")
  data = file.read(length)
  foot = file.read(records.FOOTER)
  whole = len(data) == length and len(foot) == records.FOOTER
  checks.require(whole, "truncated record")
  stored = int.from_bytes(foot, "little")
  checks.require(crc32c.masked(data) == stored, "corrupted record (checksum)")
  checks.require(
    crc is None or stored == crc, "another record than when it was indexed"
  )
  return data


def _one(file, offset, length, crc):
  """(key, reason) of a record; the reason is "" if all is well."""
  key = ""
  try:
    data = _payload(file, offset, length, crc)
    try:
      context, lists = records.decode(data)
    except (ValueError, IndexError, KeyError) as error:
      raise ValueError(f"no SequenceExample: {error}") from None
    key = b"".join(context.get("key", ()))[:80].decode("utf-8", "replace")
    checks.record(context, lists)
  except ValueError as error:
    return key, " ".join(str(error).split())
  return key, ""


def shard(task: tuple[str, str, int], count=lambda: None) -> list[Problem]:
  """All problems of shard `task` = (dir, split, number of the shard)."""
  dir, split, number = task
  table = index.load(dir, split)
  path, mine = table.paths[number], np.flatnonzero(table.file == number)
  crcs = [None] * len(mine)
  at = index.index_path(path)
  if at.exists():
    with np.load(io.BytesIO(at.read_bytes()), allow_pickle=False) as z:
      crcs = z["crc"].tolist()
  found, end = [], 0
  with path.open("rb") as file:
    for k, crc in zip(mine, crcs, strict=True):
      offset, length = int(table.offset[k]), int(table.length[k])
      key, reason = _one(file, offset, length, crc)
      if not reason and offset != end:
        reason = f"the index leaves a gap: the record before ends at {end}"
      if reason:
        found.append(Problem(path.name, offset, int(k), key, reason))
      end = offset + records.HEADER + length + records.FOOTER
      count()
    size = file.seek(0, os.SEEK_END)
  if size != end:
    reason = f"{size} bytes, by its index {end}"
    found.append(Problem(path.name, -1, -1, "", reason))
  return found


def run(dir, *, processes: int = 1, quiet: bool = False) -> tuple[int, list[Problem]]:
  """(number of records, problems) of a prepared data set.

  Raises: UserError if there is none, or shards are missing.
  """
  info = index.read_info(dir)
  tables = {split: index.load(dir, split) for split in info["splits"]}
  found, whole = [], hashlib.sha256()
  for split, table in sorted(tables.items()):
    whole.update(f"{split} {table.fingerprint}\n".encode())
    known = info["splits"][split].get("num_examples")
    if known != len(table):
      reason = f"split {split} has {len(table)} records, {known} are declared"
      found.append(Problem(index.INFO, -1, -1, "", reason))
  if whole.hexdigest() != info.get("fingerprint"):
    reason = "the fingerprint is of other shards"
    found.append(Problem(index.INFO, -1, -1, "", reason))
  total = sum(map(len, tables.values()))
  tasks = [(str(dir), s, n) for s, t in tables.items() for n in range(len(t.paths))]
  with progress.bar("validate", total, quiet=quiet) as update:
    if processes > 1 and len(tasks) > 1:
      workers.run(shard, tasks, processes, update, found.extend)
    else:
      done = [0]

      def count():
        done[0] += 1
        update(done[0])

      for task in tasks:
        found += shard(task, count)
  return total, sorted(found)


def _run(argv) -> int:
  parser = command.Parser("python -m data_pipelines.validate", __doc__)
  parser.add_argument("dir", metavar="DIR", help="what prepare wrote")
  cores = os.cpu_count() or 1
  parser.add_argument(
    "--processes", type=int, default=cores, help=f"shards at once (default: {cores})"
  )
  parser.add_argument("--quiet", action="store_true", help="no progress bar")
  given = parser.parse_args(argv)
  total, found = run(given.dir, processes=given.processes, quiet=given.quiet)
  for problem in found:
    print(problem)
  bad = sum(p.offset >= 0 for p in found)
  print(f"{given.dir}: {total} records, {bad} bad, {len(found) - bad} other problems")
  return errors.DataBudgetError.exit_code if found else 0


main = functools.partial(command.run, _run)

if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
