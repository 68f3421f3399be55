"""Logs of one JSON object a line that survive kills: whole lines, no step twice.

Keys are sorted and floats follow one fixed rule, so that equal runs leave equal bytes.
"""

import json
import math
import os
from collections.abc import Mapping

import jax
from etils import epath


def rounded(x: float) -> float | None:
  """The fixed rule for logged numbers: seven significant digits, null if not finite."""
  x = float(x)
  return float(f"{x:.7g}") if math.isfinite(x) else None


def read(path: epath.PathLike) -> list[dict]:
  """The whole lines of a file that parse as objects; [] if there is no file."""
  path = epath.Path(path)
  lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
  return [row for row in map(_parse, lines) if row is not None]


def _parse(line):
  try:
    row = json.loads(line)
  except ValueError:  # cut by a kill
    return None
  return row if isinstance(row, dict) else None


class Lines:
  """A file that is only ever extended by whole lines.

  On opening, what a kill left half-written is cut off. With `last_step`, so are lines
  beyond that step, without a step, or whose step is not above the one before. A local
  file is appended to and synced; one on `gs://`, where nothing can be appended, is
  written anew each time.
  """

  def __init__(self, path: epath.PathLike, *, last_step: int | None = None):
    self.path = epath.Path(path)
    self.local = "://" not in os.fspath(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    old = self.path.read_bytes() if self.path.exists() else b""
    self.steps, self.step = last_step is not None, -1
    self.kept = []  # lines, without their ends
    for line in old.split(b"\n")[:-1]:
      row = _parse(line)
      if row is None:
        continue
      if self.steps:
        step = row.get("step", -1)
        if not self.step < step <= last_step:
          continue
        self.step = step
      self.kept.append(line)
    if self._content() != old:
      self._replace()

  def rows(self) -> list[dict]:
    """What was in the file when it was opened."""
    return [json.loads(line) for line in self.kept]

  def add(self, row: Mapping) -> None:
    """One more line, on disk when this returns.

    Raises: ValueError if its "step" is not above the last one, or a float not finite.
    """
    line = json.dumps(row, sort_keys=True, allow_nan=False).encode()
    if self.steps:
      if row["step"] <= self.step:
        raise ValueError(
          f"step {row['step']} comes after step {self.step} in {self.path.name}: "
          "a step is logged once, with all its values."
        )
      self.step = row["step"]
    if not self.local:
      self.kept.append(line)
      self._replace()
      return
    with open(self.path, "ab") as f:
      f.write(line + b"\n")
      f.flush()
      os.fsync(f.fileno())

  def _content(self):
    return b"".join(line + b"\n" for line in self.kept)

  def _replace(self):
    if not self.local:
      self.path.write_bytes(self._content())
      return
    new = self.path.with_name(self.path.name + ".tmp")
    with open(new, "wb") as f:
      f.write(self._content())
      f.flush()
      os.fsync(f.fileno())
    os.replace(new, self.path)


class BadRecords:
  """`bad_records.jsonl`: key, reason and source of every record that was set aside.

  A record is written once, also over restarts. Process 0 writes `bad_records.jsonl`,
  process i writes `bad_records.i.jsonl`.
  """

  def __init__(self, workdir: epath.PathLike, *, process: int | None = None):
    process = jax.process_index() if process is None else process
    name = f"bad_records.{process}.jsonl" if process else "bad_records.jsonl"
    self.path, self.file = epath.Path(workdir) / name, None
    self.seen = {(row.get("source"), row.get("key")) for row in read(self.path)}

  def add(self, key: str, reason: str, *, source: str = "") -> bool:
    """Writes one record; False if it was known."""
    if (source, key) in self.seen:
      return False
    self.seen.add((source, key))
    self.file = self.file or Lines(self.path)  # no file before the first bad record
    self.file.add({"key": key, "reason": reason, "source": source})
    return True
