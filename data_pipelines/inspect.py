"""What a prepared data set holds: python -m data_pipelines.inspect DIR [--html FILE].

Counts, splits, licence, disk use, the columns one can filter by; lengths of a sample of
records, the ladder of shapes that the pipeline would choose for them and what it
wastes, and the same of packed rows. With --html also a page, complete in itself, with a
contact sheet: frames, regions as a drawing of their boxes, texts. With --captions the
captions of the split as a COCO file, for the official program.

A sample is read without TensorFlow. With --task the lengths are exact, of all records
that the task's filters pass.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np

from data_pipelines import command, index, packing, plan, records, vocabularies
from vlp_jax import errors, resolve

SAMPLE = 2000  # records whose lengths are looked at
MOST = 50_000  # rows that the ladder and packing are tried on
CAPTIONS = "caption/text"  # the list of a record
_BARS = 12  # of the histogram
_WIDTH = 40  # of a bar, in letters


def spread(num: int, count: int) -> np.ndarray:
  """At most `count` places of `num`, evenly spread."""
  return np.unique(np.linspace(0, num - 1, min(num, count)).round().astype(int))


def record(table: index.Table, k: int) -> tuple[dict, dict]:
  """(context, lists) of record k; UserError if it is damaged."""
  path = table.paths[table.file[k]]
  with path.open("rb") as file:
    file.seek(int(table.offset[k]))
    try:
      _, data = next(records.read(file))
      return records.decode(data)
    except (ValueError, IndexError, KeyError, StopIteration) as error:
      raise errors.UserError(
        f"{path} at {table.offset[k]}: {error} Run data_pipelines.validate."
      ) from None


def captions(dir, split: str) -> dict[int, list[str]]:
  """{number of the record: its captions, as they were prepared}.

  The number is what tasks call `relevance`. Records without captions are left out, and
  damaged ones, which evaluation leaves out too.
  Raises: UserError if the split has no captions.
  """
  table, found = index.load(dir, split), {}
  for k in range(len(table)):
    try:
      _, lists = record(table, k)
    except errors.UserError:
      continue
    texts = [step[0].decode("utf-8", "replace") for step in lists.get(CAPTIONS, ())]
    if texts:
      found[k] = texts
  if not found:
    raise errors.UserError(f"{dir} ({split}) holds no captions ({CAPTIONS}).")
  return found


def coco(found: Mapping[int, list[str]]) -> dict:
  """The captions of `captions` in the form of COCO's caption files."""
  rows = [{"image_id": k, "caption": t} for k, texts in found.items() for t in texts]
  return {
    "images": [{"id": k} for k in found],
    "annotations": [{"id": n, **row} for n, row in enumerate(rows)],
  }


def vocabulary(dir, info: Mapping, file: str = ""):
  """The data set's own vocabulary, that of `file`, or None."""
  given = dict(info.get("vocab") or {})
  own = pathlib.Path(str(dir)) / given.get("file", "vocab.txt")
  if file or (given.get("name") and own.exists()):
    name = given.get("name", "wordpiece")
    return vocabularies.build({"name": name, "file": file or str(own)})
  return None


def _sizes(context, lists, vocab) -> dict[str, int]:
  """Stream -> tokens of one record."""
  out = {}
  if text := context.get("text"):
    told = text[0].decode("utf-8", "replace")
    out["text"] = (len(vocab.encode(told)) if vocab else len(told.split())) + 2
  for name in context:
    if name.endswith("/dim"):
      stream = name.removesuffix("/dim")
      out[stream] = int(context[f"{stream}/num"][0])
  for name, steps in lists.items():
    if name in ("video/frames", "narration/text", CAPTIONS):
      out[name.replace("/", " ")] = len(steps)
  return out


def sample(table: index.Table, vocab, count: int = SAMPLE) -> dict[str, np.ndarray]:
  """stream -> [n] tokens of n records spread over the split."""
  found = [
    _sizes(*record(table, int(k)), vocab) for k in spread(len(table), count).tolist()
  ]
  names = list(dict.fromkeys(name for one in found for name in one))
  return {name: np.array([one.get(name, 0) for one in found]) for name in names}


def exact(table, info, task: str, vocab) -> dict[str, np.ndarray]:
  """The same of all rows of a task, by its own tokeniser."""
  define = resolve.module("data_pipelines.tasks", task).define
  made = define(table, info, vocab=vocab, train=True)
  if made.streams is None:
    raise errors.UserError(f"task {task!r} has rows of one shape: no lengths to show.")
  return {name: np.asarray(sizes) for name, sizes in made.streams.items()}


def histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
  """(from, to, count) of at most 12 equal bins of whole numbers."""
  low, high = int(lengths.min()), int(lengths.max())
  step = max(1, -(-(high - low + 1) // _BARS))
  edges = np.arange(low, high + step + 1, step)
  counts = np.histogram(lengths, edges)[0]
  return [
    (int(a), int(b) - 1, int(n))
    for a, b, n in zip(edges, edges[1:], counts, strict=False)
    if a <= high
  ]


def _mean(x):
  return f"mean {x.mean():.1f}, {int(x.min())} to {int(x.max())}"


def ladder(lengths: np.ndarray, tokens: int, max_rungs: int) -> list[str]:
  """The rungs for a token budget, their shares, and what they waste."""
  rungs = plan.ladder(lengths, tokens, max_rungs=max_rungs)
  order = plan.Plan(lengths, rungs)
  batches = [b for w in range(order.windows) for b in order.window(w)[1]]
  rows = np.zeros(len(rungs), int)
  for rung, ids in batches:
    rows[rung] += len(ids)
  places = sum(int(n) * rung.length for n, rung in zip(rows, rungs, strict=True))
  out = [f"ladder for {tokens:,} tokens a batch:"]
  for rung, n in zip(rungs, rows, strict=True):
    out.append(
      f"  {rung.length:5d} tokens x {rung.rows:5d} rows  {n / rows.sum():6.1%} of rows"
    )
  fixed = rungs[-1].length * len(lengths)
  out.append(
    f"  {1 - lengths.sum() / places:.1%} of all places are padding; rows padded to "
    f"the longest would compute {fixed / places:.2f} times as many"
  )
  return out


def packed(sizes: np.ndarray, tokens: int, length: int) -> str:
  """What packed rows of a length waste."""
  widths, most = packing.widths(sizes, length), packing.segments(sizes, length)
  rows = max(8, tokens // length // 8 * 8)
  order = plan.Packed(sizes, widths, length, rows, most)
  batches = [ids for w in range(order.windows) for _, ids in order.window(w)[1]]
  ids = np.concatenate(batches)
  some = (ids != plan.NONE).sum(axis=1)
  return (
    f"packed into rows of {length}: {packing.waste(sizes, batches, length):.1%} "
    f"padding, {some[some > 0].mean():.1f} examples a row, at most {some.max()}"
  )


def _megabytes(paths) -> str:
  return f"{sum(p.stat().length for p in paths) / 1e6:,.1f} MB"


def about(dir, info: Mapping) -> list[tuple[str, str]]:
  """(name, value) of the data set as a whole."""
  out = [(k, str(info.get(k, "not said"))) for k in ("name", "kind", "licence")]
  out.append(("fingerprint", str(info.get("fingerprint", ""))[:16]))
  out += [(f"settings.{k}", str(v)) for k, v in info.get("settings", {}).items()]
  for name, values in info.get("classes", {}).items():
    some = ", ".join(map(str, list(values)[:6]))
    out.append((f"classes.{name}", f"{len(values)}: {some} ..."))
  return out


def splits(tables: Mapping[str, index.Table]) -> list[tuple[str, ...]]:
  """(split, examples, shards, size on disk, columns of the index)."""
  return [
    (
      split,
      f"{len(table):,}",
      str(len(table.paths)),
      _megabytes(table.paths),
      ", ".join(table.columns) or "none",
    )
    for split, table in tables.items()
  ]


def lengths(streams: Mapping[str, np.ndarray], num: int, given) -> list[str]:
  """Lines on lengths: each stream, the histogram of the whole, ladder and packing.

  Args:
    num: rows of the split, which a sample stands for: batches of a few rows more often
      stay half empty than those of many.
  """
  out = [f"{name}: {_mean(sizes)}" for name, sizes in streams.items()]
  words = {k: x for k, x in streams.items() if " " not in k}  # frames are no tokens
  if not words:
    return out
  sizes = np.stack([*words.values()], axis=1)
  total = sizes.sum(axis=1)
  out.append(f"tokens of an example: {_mean(total)}")
  bins = histogram(total)
  most = max(n for _, _, n in bins)
  for low, high, n in bins:
    out.append(f"  {low:5d}-{high:<5d} {n:7,} {'#' * round(_WIDTH * n / most)}")
  longest = -(-int(total.max()) // 8) * 8
  whole = np.resize(sizes, (min(num, MOST), len(words)))
  out += ladder(whole.sum(axis=1), max(given.tokens, longest * 8), given.max_rungs)
  if len(words) > 1:
    out.append(packed(whole, given.tokens, max(given.pack, longest)))
  return out


def _run(argv) -> int:
  parser = command.Parser("python -m data_pipelines.inspect", __doc__)
  add = parser.add_argument
  add("dir", metavar="DIR", help="what prepare wrote")
  add("--split", default="", help="whose lengths and examples (default: train)")
  add("--task", default="", help="exact lengths by this task, e.g. text_regions")
  add("--vocab", default="", help="vocabulary file (default: the data set's own)")
  add("--tokens", type=int, default=10_240, help="token budget of a batch (10240)")
  add("--max_rungs", type=int, default=8, help="of the ladder (8)")
  add("--pack", type=int, default=256, help="length of packed rows (256)")
  add("--html", default="", help="write a page with a contact sheet to this file")
  add("--captions", default="", help="write the split's captions to this COCO file")
  add("--examples", type=int, default=12, help="examples on the page (12)")
  given = parser.parse_args(argv)
  info = index.read_info(given.dir)
  tables = {split: index.load(given.dir, split) for split in info["splits"]}
  split = given.split or ("train" if "train" in tables else next(iter(tables), ""))
  if split not in tables:
    raise errors.UserError(f"--split {split}.{resolve.nearest(split, tables)}")
  table, words = tables[split], vocabulary(given.dir, info, given.vocab)
  facts, rows = about(given.dir, info), splits(tables)
  for name, value in facts:
    print(f"{name}: {value}")
  for row in rows:
    print("{}: {} examples in {} shards, {}; columns {}".format(*row))
  lines = []
  if len(table):
    if given.task:
      streams, told = exact(table, info, given.task, words), f"all of {split}"
    else:
      streams = sample(table, words)
      unit = "" if words else ", words for want of a vocabulary"
      told = f"{min(len(table), SAMPLE)} records of {split}{unit}"
    lines = [f"lengths, {told}:", *lengths(streams, len(table), given)]
    print("\n".join(lines))
  if given.html:
    from data_pipelines import contact_sheet

    shown = [
      (int(k), *record(table, int(k))) for k in spread(len(table), given.examples)
    ]
    page = contact_sheet.page(facts, rows, lines, split, shown, info.get("classes", {}))
    pathlib.Path(given.html).write_text(page, encoding="utf-8")
    print(f"wrote {given.html}")
  if given.captions:
    text = json.dumps(coco(captions(given.dir, split)), ensure_ascii=False)
    pathlib.Path(given.captions).write_text(text, encoding="utf-8")
    print(f"wrote {given.captions}")
  return 0


main = functools.partial(command.run, _run)

if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
