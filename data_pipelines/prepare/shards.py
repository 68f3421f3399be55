"""What every `prepare` shares: one task makes one shard, whole or not at all.

Example k of a split goes to shard k mod S, and S depends on the number of examples
only, so the bytes do not depend on the number of processes or on interruptions. A
shard that is there is kept. An example that cannot be encoded goes to
`bad_records.jsonl` with its key and the reason; more than the larger of 100 and 0.1 %
of all examples end the run with exit 3. The settings are kept in `prepare.json`, and a
rerun with others is refused.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data_pipelines import index, progress
from data_pipelines.prepare import beam, workers
from vlp_jax import errors

PER_SHARD = 128
BAD = "bad_records.jsonl"
SETTINGS = "prepare.json"
SAMPLE = 3  # examples encoded for the estimate

# encode(row) -> (serialised record, index columns); ValueError sends it to quarantine.
# A row may also be a file of several examples: then an iterator of such pairs and of
# `Refused`. The number of rows, not of examples, settles the shards and the budget.
Encode = Callable[[Mapping], tuple[bytes, Mapping] | Iterator]


class Refused(NamedTuple):
  """One example of a row that holds several: it alone goes to quarantine."""

  key: str
  reason: str


class Task(NamedTuple):
  """One shard: its place and its rows, each a dict with a `key`."""

  split: str
  shard: int
  num_shards: int
  rows: list


class Estimate(NamedTuple):
  """Of a whole preparation, from a few examples: bytes on disk, seconds on one core."""

  num_examples: int
  num_bytes: int
  seconds: float


def plan(splits: Mapping[str, Sequence], per_shard: int = PER_SHARD) -> list[Task]:
  """The tasks of all splits; a function of the rows only."""
  tasks = []
  for split, rows in splits.items():
    num = max(1, -(-len(rows) // per_shard))
    tasks += [Task(split, s, num, list(rows[s::num])) for s in range(num)]
  return tasks


def budget(num_examples: int) -> int:
  """How many damaged examples are put up with."""
  return max(100, num_examples // 1000)


def estimate(tasks: Sequence[Task], encode: Encode) -> Estimate:
  """Encodes a few examples, spread over the tasks, and scales up."""
  rows = [row for task in tasks for row in task.rows]
  total, begin, tried = [], time.perf_counter(), rows[:: max(1, len(rows) // SAMPLE)]
  for row in tried[:SAMPLE]:
    with contextlib.suppress(ValueError):  # it is reported when its shard is made
      made = _each(encode(row))
      total.append(sum(len(m[0]) for m in made if not isinstance(m, Refused)))
  mean = sum(total) / max(1, len(total))
  spent = (time.perf_counter() - begin) / max(1, len(tried[:SAMPLE]))
  return Estimate(len(rows), int(mean * len(rows)), spent * len(rows))


def _free(out: pathlib.Path) -> int:
  at = out.absolute()
  while not at.exists():
    at = at.parent
  return shutil.disk_usage(at).free


def _alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  return True


def remove_stale(out: pathlib.Path) -> int:
  """Removes the partial files of processes that are gone; returns how many."""
  stale = 0
  for path in out.glob("*.tmp-*"):
    pid = path.name.rpartition("-")[2]
    if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
      path.unlink(missing_ok=True)
      stale += 1
  return stale


def _claim(out, settings, splits) -> None:
  """Keeps the settings, or refuses those that differ from the ones kept."""
  text = json.dumps({s: list(rows) for s, rows in splits.items()}, sort_keys=True)
  now = {**settings, "source_sha256": hashlib.sha256(text.encode()).hexdigest()}
  now = json.loads(json.dumps(now))
  path = out / SETTINGS
  if path.exists():
    try:
      before = json.loads(path.read_text())
    except ValueError:
      raise errors.UserError(f"{path} is damaged; remove {out}.") from None
    changed = [
      f"{k} {before.get(k)!r} -> {now.get(k)!r}"
      for k in sorted({*before, *now})
      if before.get(k) != now.get(k)
    ]
    if changed:
      raise errors.UserError(
        f"{out} was begun with other settings or sources ({'; '.join(changed)}). "
        "Give another --out, or remove it."
      )
    return
  partial = out / f"{SETTINGS}.tmp-{os.getpid()}"
  partial.write_text(json.dumps(now, indent=2, sort_keys=True))
  partial.rename(path)


def _note(out, bad: Sequence[Mapping]) -> None:
  """Appends in one write, so that the lines of two workers do not mix."""
  if bad:
    lines = "".join(json.dumps(b, ensure_ascii=False) + "\n" for b in bad)
    with (out / BAD).open("ab", buffering=0) as f:
      f.write(lines.encode("utf-8", "replace"))


def _noted(out) -> list[dict]:
  """All quarantined examples, sorted, once each; the file is rewritten so."""
  path, found = out / BAD, {}
  if not path.exists():
    return []
  for line in path.read_text(encoding="utf-8").splitlines():
    with contextlib.suppress(ValueError):  # the half line of a killed worker
      row = json.loads(line)
      found[row["split"], row["key"]] = row
  rows = [found[k] for k in sorted(found)]
  path.unlink()
  _note(out, rows)
  return rows


def _each(made) -> Iterator:
  """What `encode` gave, one example after the other."""
  return iter((made,)) if isinstance(made, tuple) else made


def make(task: Task, out, encode: Encode, columns, count=lambda: None) -> list[dict]:
  """Writes one shard and its index; returns what was quarantined."""
  bad = []
  writer = index.ShardWriter(
    out, task.split, task.num_shards, columns=columns, only=(task.shard,)
  )
  with writer:
    for row in task.rows:
      try:
        for made in _each(encode(row)):
          if isinstance(made, Refused):
            bad.append({"split": task.split, **made._asdict()})
          else:
            writer.write(task.shard, made[0], **made[1])
      except ValueError as error:
        reason = " ".join(str(error).split())
        bad.append({"split": task.split, "key": row["key"], "reason": reason})
      count()
    _note(out, bad)  # before the shard is complete: a kill in between costs nothing
  return bad


def _inline(tasks, out, encode, columns, update, check) -> None:
  done = [0]

  def count():
    done[0] += 1
    update(done[0])

  for task in tasks:
    check(make(task, out, encode, columns, count))


def _by_beam(job, tasks, runner, out, allowed, check) -> None:
  """The tasks by a runner of Apache Beam; what was damaged is read back from disk."""
  try:
    beam.run(job, tasks, runner, functools.partial(_stop, out, allowed))
  finally:
    check(_noted(out))  # above the budget this is the error to show


def _stop(out, allowed) -> None:
  at = out / BAD
  if at.exists() and at.read_bytes().count(b"\n") > allowed:
    raise errors.DataBudgetError(f"more than {allowed} examples are damaged.")


def write(
  out,
  splits: Mapping[str, Sequence[Mapping]],
  encode: Encode,
  *,
  columns: Sequence[str],
  settings: Mapping,
  info: Mapping,
  processes: int | str = 1,
  per_shard: int = PER_SHARD,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Makes all missing shards and `dataset_info.json`.

  Args:
    out: local directory.
    splits: split -> rows in order, JSON-able dicts with a unique `key`.
    encode: picklable; row -> (record, columns), ValueError for a damaged one.
    columns: names of the index columns.
    settings: what the bytes depend on; kept, and compared on a rerun.
    info: further entries of dataset_info.json: name, kind, licence, classes ...
    processes: workers; 1 works in this process. A str is a runner of Apache Beam.
    dry_run: only estimate.
  Returns: dataset_info, or the estimate of a dry run as a dict.
  Raises: UserError without examples or disk space or with other settings than before,
    DataBudgetError above the budget, Preempted if a worker was killed.
  """
  out = pathlib.Path(out)
  tasks = plan({s: r for s, r in splits.items() if r}, per_shard)
  total = sum(len(t.rows) for t in tasks)
  if not total:
    raise errors.UserError(f"no examples to prepare for {out}.")
  complete = lambda t: index.index_path(out / index.shard_name(*t[:3])).exists()
  missing = [t for t in tasks if not complete(t)]
  left = sum(len(t.rows) for t in missing)
  guess = estimate(missing, encode)
  if not quiet:
    _report(out, guess, len(missing), len(tasks), processes)
  if dry_run:
    return guess._asdict()
  if guess.num_bytes * 1.05 > _free(out):
    raise errors.UserError(
      f"{out} needs about {guess.num_bytes / 1e6:.0f} MB, but "
      f"{_free(out) / 1e6:.0f} MB are free. Use a smaller --size or --rate_hz."
    )
  try:
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, settings, splits)
    remove_stale(out)
    bad, allowed = {}, budget(total)

    def check(found):
      bad.update({(b["split"], b["key"]): b["reason"] for b in found})
      if len(bad) > allowed:
        (_, key), reason = next(reversed(bad.items()))
        raise errors.DataBudgetError(
          f"{len(bad)} of {total} examples are damaged, {allowed} are allowed; the "
          f"reasons are in {out / BAD}, e.g. {key}: {reason}"
        )

    check(_noted(out))
    with progress.bar("prepare", total, done=total - left, quiet=quiet) as update:
      job = functools.partial(make, out=out, encode=encode, columns=columns)
      if isinstance(processes, str):
        _by_beam(job, missing, processes, out, allowed, check)
        update(left)
      elif processes > 1 and len(missing) > 1:
        workers.run(job, missing, processes, update, check)
      else:
        _inline(missing, out, encode, columns, update, check)
  except OSError as error:
    raise errors.UserError(f"{out}: {error.strerror or error}.") from None
  finally:
    if out.is_dir():
      remove_stale(out)
  return _finish(out, tasks, settings, info, quiet)


def _finish(out, tasks, settings, info, quiet) -> dict:
  bad = _noted(out)
  splits = list(dict.fromkeys(t.split for t in tasks))
  counted = {s: {"bad_records": sum(b["split"] == s for b in bad)} for s in splits}
  for split in splits:
    if not len(index.load(out, split)):
      first = next(b for b in bad if b["split"] == split)
      raise errors.DataBudgetError(
        f"all {split} examples are damaged, e.g. {first['key']}: {first['reason']}"
      )
  written = index.write_info(
    out, {**info, "settings": dict(settings), "splits": counted}
  )
  if not quiet:
    counts = ", ".join(f"{s} {v['num_examples']}" for s, v in written["splits"].items())
    print(f"{out}: {counts}; {len(bad)} in quarantine", file=sys.stderr)
  return written


def _report(out, guess, missing, num, processes) -> None:
  at_once = 1 if isinstance(processes, str) else max(1, min(processes, missing))
  print(
    f"{out}: {num - missing} of {num} shards are there; {guess.num_examples} examples "
    f"to do, about {guess.num_bytes / 1e6:.1f} MB and {guess.seconds / at_once:.0f} s",
    file=sys.stderr,
  )
