"""Damaged records: what was lost, why, and how much of it is still acceptable."""

import json

from etils import epath

from data_pipelines import index
from vlp_jax.errors import DataBudgetError


class Quarantine:
  """Collects damaged records of one source, each once.

  Args:
    table: of the source.
    budget: how many may be lost on this host; None for the larger of 0.1 % of the
      source and 100.
    file: `bad_records.jsonl` to append to, or None. Records that it names already, as
      after a restart, are not written again.
  """

  def __init__(self, table: index.Table, *, budget: int | None = None, file=None):
    self.table = table
    self.budget = max(len(table) // 1000, 100) if budget is None else budget
    self.file = None if file is None else epath.Path(file)
    self.bad = {}  # record -> entry
    self._written = self._read()

  def _read(self):
    if self.file is None or not self.file.exists():
      return set()
    rows = [json.loads(line) for line in self.file.read_text().splitlines() if line]
    return {(row["dir"], row["shard"], row["offset"]) for row in rows}

  def add(self, record: int, reason: str) -> None:
    """Takes a record in.

    Raises: DataBudgetError when more records are lost than the budget allows.
    """
    if record in self.bad:
      return
    where = {"dir": str(self.table.dir), **self.table.place(record)}
    entry = self.bad[record] = {**where, "reason": reason}
    at = (where["dir"], where["shard"], where["offset"])
    if self.file is not None and at not in self._written:
      self._written.add(at)
      self.file.parent.mkdir(parents=True, exist_ok=True)
      with self.file.open("a") as f:
        f.write(json.dumps(entry, sort_keys=True) + "\n")
    if len(self.bad) > self.budget:
      raise DataBudgetError(
        f"{where['dir']} ({self.table.split}): {len(self.bad)} damaged records, the "
        f"budget is {self.budget} of {len(self.table)}. The last one: {where['shard']} "
        f"at {where['offset']}: {reason}. Run data_pipelines.validate on the directory."
      )
