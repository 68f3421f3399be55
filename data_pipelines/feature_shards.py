"""What a model says of a prepared data set, as shards of kind `clip_features`.

Each record of the source becomes one of the result: `key`, labels, tags, captions and
narrations are carried over, frames, sound and regions are not. Its rows (windows of a
video, or the one row of another kind) become

  features/0/data     float16 [n, D] bytes; features/0/num, features/0/width
  features/0/rate_hz  rows a second; features/0/times, float32 [n, 2] bytes, in s

and `duration_s`, as `prepare clip_features` writes and `task: clip_features` reads.
Shards are made one by one, whole or not at all, each from batches of its own: what was
stopped goes on, and ends with the same bytes.
"""

import collections
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from data_pipelines import batches, index, records
from data_pipelines.prepare import shards
from vlp_jax import errors

PER_SHARD = 128
COLUMNS = ("duration_s", "num_narrations", "num_captions", "num_features")
MOMENTS = ("num_moments", "task", "num_steps")  # of sources with annotated moments
DROPPED = ("video/frames", "video/times", "video/height", "video/width", "audio/pcm")
DROPPED += ("video/rate_hz", "audio/rate_hz")
KEPT_SHARDS = 4  # of whose features the host keeps what was not written yet

# forward(batches) -> (features [n, D], example_id [n]) of the rows that are real
Forward = Callable[[Iterable[Mapping[str, np.ndarray]]], tuple[np.ndarray, np.ndarray]]


class Part:
  """Some rows of an evaluation, in batches of their own; example_id is the row."""

  def __init__(self, whole: batches.Evaluation, rows: np.ndarray):
    self.whole, self.rows = whole, np.asarray(rows)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    whole, size = self.whole, self.whole.rungs[0].rows
    for planned, made in whole._source.reader.stream(self._planned(size)):
      row = np.maximum(made["row"], 0).astype(np.int32)
      yield whole._source.finish(planned, made) | {"example_id": row}

  def _planned(self, size):
    whole = self.whole
    for k in range(-(-len(self.rows) // size)):
      ids = self.rows[k * size : (k + 1) * size]
      ids = np.pad(ids, (0, size - len(ids)), constant_values=batches.plan.NONE)
      mine = np.split(ids[:, None], whole._num_hosts)[whole._host]
      yield {"window": 0, "batch": k, "epoch": 0, "rung": 0, "candidates": mine}


class Split:
  """A split of the source, and the features of its records, shard by shard.

  Args:
    whole: its evaluation. forward: see `Forward`; a collective call.
    window_s, stride_s: of the rows of a record in time; 0 where they have none.
    announce: told the number of a shard before it is read.
  """

  def __init__(
    self,
    whole: batches.Evaluation,
    forward: Forward,
    *,
    window_s: float = 0.0,
    stride_s: float = 0.0,
    announce: Callable[[int], None] = lambda shard: None,
  ):
    self.whole, self.forward, self.announce = whole, forward, announce
    self.window_s, self.stride_s = window_s, stride_s
    definition = whole._source.definition
    self.table, self.record = whole._source.table, definition.record
    self.more = tuple(k for k in MOMENTS if k in self.table.columns)
    self.records = np.unique(self.record)
    self.num_shards = max(1, -(-len(self.records) // PER_SHARD))
    self._kept = collections.OrderedDict()

  def rows(self) -> list[dict]:
    """Of `prepare.shards`: one a record, each with a key."""
    return [{"key": f"{self.table.split}:{i}", "record": int(i)} for i in self.records]

  def features(self, shard: int) -> dict[int, np.ndarray]:
    """record -> [n, D] of the records of a shard, kept for a while."""
    if shard not in self._kept:
      self.announce(shard)
      self._kept[shard] = self.compute(shard)
      if len(self._kept) > KEPT_SHARDS:
        self._kept.popitem(last=False)
    return self._kept[shard]

  def compute(self, shard: int) -> dict[int, np.ndarray]:
    """record -> [n, D] of the records of a shard; all processes call it."""
    mine = self.records[shard :: self.num_shards]
    rows = np.flatnonzero(np.isin(self.record, mine))
    # Every record of a shard beside the next: the order in which rows are read.
    rows = rows[np.argsort(self.record[rows], kind="stable")]
    x, row = self.forward(Part(self.whole, rows))
    if x.ndim != 2:
      raise errors.UserError(
        f"the output has {x.ndim - 1} axes a row; features have one. Name another "
        "--output, such as video_features."
      )
    of = self.record[row]
    return {int(r): x[of == r] for r in np.unique(of)}

  def encode(self, row: Mapping) -> tuple[bytes, dict]:
    """A record of the result. Raises: ValueError if its source is damaged."""
    place = int(np.searchsorted(self.records, row["record"]))
    found = self.features(place % self.num_shards).get(row["record"])
    wanted = int((self.record == row["record"]).sum())
    if found is None or len(found) != wanted:
      have = 0 if found is None else len(found)
      raise ValueError(f"{wanted - have} of {wanted} rows cannot be read")
    return self._encode(row["record"], found)

  def _encode(self, record, x):
    source, lists = _source(self.table, record)
    kept = {k: v for k, v in source.items() if _carried(k)}
    with np.errstate(over="ignore"):
      half = x.astype("<f2")
    if not np.isfinite(half).all():
      raise ValueError("features that float16 cannot hold, or that are not finite")
    start = np.arange(len(x)) * self.stride_s
    times = np.stack([start, start + self.window_s], axis=1)
    duration = float(source.get("duration_s", [times[-1, 1]])[0]) or float(len(x))
    kept["duration_s"] = duration
    kept |= {
      "features/0/data": half.tobytes(),
      "features/0/num": len(x),
      "features/0/width": x.shape[1],
      "features/0/rate_hz": 1 / self.stride_s if self.stride_s else len(x) / duration,
      "features/0/times": times.astype("<f4").tobytes(),
    }
    lists = {k: v for k, v in lists.items() if _carried(k)}
    columns = {
      "duration_s": duration,
      "num_narrations": len(lists.get("narration/text", ())),
      "num_captions": len(lists.get("caption/text", ())),
      "num_features": len(x),
      **{k: int(self.table.columns[k][record]) for k in self.more},
    }
    return records.encode(kept, lists), columns


def _carried(name: str) -> bool:
  return name not in DROPPED and not name.startswith(("regions", "features/"))


def _source(table: index.Table, record: int):
  """(context, lists) of a record as it is stored."""
  with open(table.paths[table.file[record]], "rb") as f:
    f.seek(int(table.offset[record]) + records.HEADER)
    data = f.read(int(table.length[record]))
  try:
    return records.decode(data)
  except (IndexError, KeyError) as error:
    raise ValueError(f"the record is damaged: {error}") from None


def _width(out, splits: Mapping[str, Split]) -> int:
  """D: what is written there already says, or else the first shard."""
  if (out / index.INFO).is_file():
    return int(index.read_info(out)["features"][0]["width"])
  for split in splits.values():
    for shard in range(split.num_shards):
      for x in split.features(shard).values():
        return x.shape[1]
  raise errors.DataBudgetError("no record of the source can be read.")


def write(
  out,
  splits: Mapping[str, Split],
  *,
  info: Mapping,
  settings: Mapping,
  quiet: bool = False,
) -> dict:
  """Makes all missing shards and dataset_info.json; see `prepare.shards.write`.

  Args:
    info: name, licence, classes ... of the source. settings: what the bytes depend on,
      the digest of the weights among them; a rerun with others is refused.
  """
  encode = lambda row: splits[row["key"].rpartition(":")[0]].encode(row)
  first = next(iter(splits.values()))
  wide = _width(pathlib.Path(out), splits)
  rate = 1 / first.stride_s if first.stride_s else 1.0
  info = {
    **info,
    "kind": "clip_features",
    "features": [{"width": wide, "rate_hz": rate}],
  }
  return shards.write(
    out,
    {name: split.rows() for name, split in splits.items()},
    encode,
    columns=(*COLUMNS, *first.more),
    settings=dict(settings),
    info=info,
    per_shard=PER_SHARD,
    quiet=quiet,
  )
