"""Captions that a model writes, scored as the COCO tools do, and the official file.

The model's `decode` gives token ids; `tokeniser.decode` makes words of them. References
are those of a file, of a prepared data set as they were written, or of the batches.
Metrics: BLEU-1..4, ROUGE-L and CIDEr-D of `caption_scores` (fractions: papers print
some of them times 100), METEOR where its program is.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption_scores, collect, meteor
from vlp_jax.metrics import Result
from vlp_jax.resolve import module, nearest

METRICS = ("bleu", "rouge_l", "cider_d")
_KEYS = {"caption": "caption_ids", "text": "text_ids", "narration": "narration_ids"}
# Where WordPiece parts what captions write together: "1 / 2", "3 . 5", "don ' t".
_PARTED = re.compile(
  r"(?<=\w) [-/] (?=\w)|(?<=\d) [.:] (?=\d)|(?<=\d) , (?=\d{3}\b)"
  r"|(?<=\w) ['’] (?=(?:s|t|re|ve|ll|d|m)\b)"
)


class Evaluator:
  """Scores of generated captions over a whole split.

  Rows of equal `group_id` (or `example_id` without it) are one item: its caption is
  that of its first row, its references are all that belong to it. The item's number is
  `image_id` in the official files. Another key of the batches may number the items:
  `relevance` where every caption of a clip is a row of its own, `example_id` where a
  group has several captioned segments.

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable.
    tokeniser: of `data_pipelines.vocabularies`: `decode(ids) -> str`, and `spec`, whose
      special ids are left out and whose `sep_id` ends a caption.
    references: see `read_references`; those of a prepared data set need items that are
      numbered by record, as `relevance` is. "" takes those of the batches, through the
      tokeniser (`stream` says which: [B, L] ids, or [B, K, L]).
    method, output: what writes, and the ids [B, L] among its outputs; a mask
      `<stem>_mask` [B, L] beside them is obeyed.
    item: the key that numbers the items; "" as above.
    metrics: of "bleu", "rouge_l", "cider_d", "meteor".
    tokenizer: "ptb" as the COCO tools, or "whitespace" as nlg-eval.
    join: `joined` mends what the tokeniser gives: for WordPiece before "ptb", which
      else finds "1 / 2" where a raw reference says "1/2".
    predictions: path of the results file to write, [{"image_id", "caption"}].

  After `run`, `predictions_made` is the list of the official file and `examples` shows
  the first items with their references.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    tokeniser,
    references: str | Mapping = "",
    stream: str = "caption",
    method: str | None = "decode",
    output: str = "caption_ids",
    item: str = "",
    metrics: tuple[str, ...] = METRICS,
    tokenizer: str = "ptb",
    join: bool = False,
    predictions: str = "",
    num_examples: int = 8,
  ):
    for name in metrics:
      if name not in (*METRICS, "meteor"):
        raise UserError(f"metric {name!r}.{nearest(name, (*METRICS, 'meteor'))}")
    if "meteor" in metrics and (why := meteor.missing()):
      raise UserError(f"{why}. Take 'meteor' out of the metrics, or install them.")
    if not references and stream not in _KEYS:
      raise UserError(f"stream={stream!r}.{nearest(stream, _KEYS)}")
    caption_scores.tokenise((), tokenizer)
    self.batches, self.tokeniser, self.metrics = batches, tokeniser, tuple(metrics)
    self.tokenizer, self.file, self.num_examples = tokenizer, predictions, num_examples
    self.join, self.by_record = join, _prepared(references) is not None
    self.references = read_references(references) if references else None
    self.predictions_made, self.examples = [], []
    mask = f"{output.removesuffix('_ids')}_mask"
    self.ids, self.item = _KEYS.get(stream), item

    def write(variables, batch, *, rng=None, train=False, method=None):
      out, mutable = apply(variables, batch, train=train, method=method)
      if output not in out:
        raise KeyError(f"{method} of the model returns {sorted(out)}, no {output!r}.")
      found = {"written_ids": out[output]}
      if mask in out:
        found["written_mask"] = out[mask]
      for name in (self.ids, self.ids and self.ids.replace("_ids", "_mask")):
        if self.references is None and name in batch:
          found["reference" + name[name.rindex("_") :]] = batch[name]
      return found, mutable

    self.forward = collect.Forward(
      write,
      ("written_ids", item or "example_id"),
      method=method,
      optional=("written_mask", "reference_ids", "reference_mask", "group_id"),
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """Every metric; chance is the score of the same captions dealt to other items."""
    out = self.forward(variables, self.batches)
    item = out[self.item] if self.item else out.get("group_id", out.get("example_id"))
    if self.by_record and not self.item and "group_id" not in out:
      raise UserError(
        "references of a prepared data set are numbered by record, the rows are not; "
        "set item='relevance'."
      )
    items, first = _firsts(item)
    written = [self._text(out, "written", i) for i in first]
    references = self._references(out, item, items)
    self.predictions_made = [
      {"image_id": int(i), "caption": text}
      for i, text in zip(items, written, strict=True)
    ]
    if self.file:
      write_results(self.file, self.predictions_made)
    self.examples = [
      {**made, "references": list(refs)}
      for made, refs in zip(self.predictions_made, references, strict=True)
    ][: self.num_examples]
    hyps = caption_scores.tokenise(written, self.tokenizer)
    refs = [caption_scores.tokenise(r, self.tokenizer) for r in references]
    yield from self._results(refs, hyps)

  def _results(self, refs, hyps):
    own = self._scores(refs, hyps)
    dealt = self._scores(refs, hyps[1:] + hyps[:1]) if len(hyps) > 1 else {}
    num = sorted({len(r) for r in refs})
    told = f"{len(hyps)} items with {num[0]} to {num[-1]} references, "
    told += f"{self.tokenizer} tokens; a fraction"
    for name, score in own.items():
      chance = dealt[name].value if dealt else float("nan")
      # BLEU and METEOR are figures of summed counts: no interval from their items.
      mean = name in ("rouge_l", "cider_d")
      ci = Result.of(score.each).ci if mean else float("nan")
      yield name, Result(score.value, chance, len(hyps), ci, told)

  def _scores(self, refs, hyps):
    out = {}
    if "bleu" in self.metrics:
      parts = caption_scores.bleu(refs, hyps)
      out |= {f"bleu{n}": s for n, s in enumerate(parts, 1)}
    for name in ("rouge_l", "cider_d"):
      if name in self.metrics:
        out[name] = getattr(caption_scores, name)(refs, hyps)
    if "meteor" in self.metrics:
      out["meteor"] = meteor.score(refs, hyps)
    return out

  def _text(self, out, name, row):
    where = out[f"{name}_mask"][row] if f"{name}_mask" in out else None
    return self._words(out[f"{name}_ids"][row], where)

  def _words(self, ids, where):
    spec = self.tokeniser.spec
    ids = [int(i) for i in (ids if where is None else ids[where])]
    if ids and ids[0] == spec.cls_id:
      ids = ids[1:]
    if spec.sep_id >= 0 and spec.sep_id in ids:
      ids = ids[: ids.index(spec.sep_id)]
    text = self.tokeniser.decode([i for i in ids if i not in spec.special_ids])
    return joined(text) if self.join else text

  def _references(self, out, item, items):
    if self.references is not None:
      lacking = [int(i) for i in items if not self.references.get(int(i))]
      if lacking:
        raise UserError(
          f"{len(lacking)} items have no reference, first {lacking[:5]}; there are "
          f"references of {len(self.references)}, as {list(self.references)[:5]}."
        )
      return [self.references[int(i)] for i in items]
    if "reference_ids" not in out or "reference_mask" not in out:
      raise UserError(
        f"batches hold no {self.ids} with its mask; set references or stream."
      )
    found = {int(i): [] for i in items}
    for i, ids, mask in zip(
      item, out["reference_ids"], out["reference_mask"], strict=True
    ):
      pairs = zip(np.atleast_2d(ids), np.atleast_2d(mask), strict=True)
      found[int(i)] += [self._words(a, b) for a, b in pairs if b.any()]
    bare = [i for i, refs in found.items() if not refs]
    if bare:
      raise UserError(f"{len(bare)} items have no reference, first {bare[:5]}.")
    return list(found.values())


def _firsts(item):
  """Distinct items in the order of their first rows, and these rows."""
  items, first = np.unique(item, return_index=True)
  order = np.argsort(first)
  return items[order], first[order]


def joined(text: str) -> str:
  """The text with the signs inside words and numbers put back into them.

  "1 / 2", "3 . 5", "1 , 000", "don ' t" and "well - cooked" lose their blanks. BERT's
  splitting leaves no trace of how they were written: a dash between two words is taken
  for a hyphen.
  """
  return _PARTED.sub(lambda match: match[0].strip(), text)


def read_references(given: str | Mapping) -> dict[int, list[str]]:
  """References by item.

  Args:
    given: path of a COCO caption file, {"annotations": [{"image_id", "caption"}]} or
      the list alone, or of a JSON file {image_id: [captions]}; or DIR/SPLIT of a
      prepared data set, whose items are the numbers of records; or a mapping
      {image_id: [captions]}. One caption may stand for its list; an id may be a string
      of digits, as in the keys of JSON.
  Raises: UserError if the file is missing, not UTF-8, no JSON, or of another form; for
    an id that is no integer, or a caption that is no string.
  """
  if isinstance(given, Mapping):
    return _by_item(given.items(), "references")
  if (prepared := _prepared(given)) is not None:
    return module("data_pipelines", "inspect").captions(*prepared)
  path = epath.Path(given)
  if not path.is_file():
    raise UserError(
      f"references {path} are missing; give a COCO caption file, or the directory and "
      "split of a prepared data set, as data/mine/val."
    )
  try:
    rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    if isinstance(rows, Mapping) and "annotations" not in rows:
      pairs = rows.items()
    else:
      rows = rows["annotations"] if isinstance(rows, Mapping) else rows
      pairs = [(row["image_id"], row["caption"]) for row in rows]
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path} is not UTF-8 (byte {error.start}); convert it: iconv -t utf-8."
    ) from None
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{path} is no COCO caption file, {{'annotations': [{{'image_id': int, "
      f"'caption': str}}]}}, nor {{image_id: [captions]}}: {error}."
    ) from None
  return _by_item(pairs, str(path))


def _prepared(references) -> tuple[epath.Path, str] | None:
  """(directory, split) if that is what the references are."""
  if not isinstance(references, str) or not references:
    return None
  path = epath.Path(references)
  holds = (path.parent / "dataset_info.json").is_file() and not path.is_file()
  return (path.parent, path.name) if holds else None


def _by_item(pairs: Iterable[tuple], what: str) -> dict[int, list[str]]:
  """Captions by number of (id, caption or captions), all checked."""
  found = {}
  for item, captions in pairs:
    whole = isinstance(item, int | np.integer) and not isinstance(item, bool)
    if not whole and not (isinstance(item, str) and re.fullmatch("[0-9]+", item)):
      raise UserError(
        f"{what}: image_id {item!r}; ids must be integers, as the batches number their "
        "items (group_id, relevance or example_id)."
      )
    captions = [captions] if isinstance(captions, str) else captions
    caption_scores.check(captions, f"{what}: the captions of item {item}")
    found.setdefault(int(item), []).extend(captions)
  return found


def write_results(path, rows: Sequence[Mapping]) -> None:
  """The results file of the COCO caption evaluation, whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f"{path.name}.tmp"
  partial.write_text(json.dumps(list(rows), ensure_ascii=False))
  partial.replace(path)
