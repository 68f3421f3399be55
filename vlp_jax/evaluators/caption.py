"""Captions that a model writes, scored as the COCO tools do, and the official file.

The model's `decode` gives token ids; `tokeniser.decode` makes words of them. References
are those of a file, or of the batches. Metrics: BLEU-1..4, ROUGE-L and CIDEr-D of
`caption_scores` (fractions: papers print some of them times 100), METEOR where its
program is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption_scores, collect, meteor
from vlp_jax.metrics import Result
from vlp_jax.resolve import nearest

METRICS = ("bleu", "rouge_l", "cider_d")
_KEYS = {"caption": "caption_ids", "text": "text_ids", "narration": "narration_ids"}


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
    references: path of a COCO caption file {"annotations": [{"image_id", "caption"}]},
      or {image_id: [captions]}; "" takes those of the batches, through the tokeniser
      (`stream` says which: [B, L] ids, or [B, K, L]).
    method, output: what writes, and the ids [B, L] among its outputs; a mask
      `<stem>_mask` [B, L] beside them is obeyed.
    item: the key that numbers the items; "" as above.
    metrics: of "bleu", "rouge_l", "cider_d", "meteor".
    tokenizer: "ptb" as the COCO tools, or "whitespace" as nlg-eval.
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
    return self.tokeniser.decode([i for i in ids if i not in spec.special_ids])

  def _references(self, out, item, items):
    if self.references is not None:
      lacking = [int(i) for i in items if not self.references.get(int(i))]
      if lacking:
        raise UserError(
          f"{len(lacking)} items have no reference in the file, first {lacking[:5]}; "
          f"it has {len(self.references)} items, as {list(self.references)[:5]}."
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


def read_references(given: str | Mapping) -> dict[int, list[str]]:
  """References by item, of a COCO caption file or a mapping.

  Raises: UserError if the file is missing, not UTF-8, no JSON, or of another form.
  """
  if isinstance(given, Mapping):
    return {int(k): [v] if isinstance(v, str) else list(v) for k, v in given.items()}
  path = epath.Path(given)
  if not path.is_file():
    raise UserError(f"references {path} are missing; give a COCO caption file.")
  try:
    rows = json.loads(path.read_bytes().decode("utf-8"))
    rows = rows["annotations"] if isinstance(rows, Mapping) else rows
    pairs = [(int(row["image_id"]), str(row["caption"])) for row in rows]
  except UnicodeDecodeError as error:
    raise UserError(
      f"{path} is not UTF-8 (byte {error.start}); convert it: iconv -t utf-8."
    ) from None
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(
      f"{path} is no COCO caption file, {{'annotations': [{{'image_id': int, "
      f"'caption': str}}]}}: {error}."
    ) from None
  found = {}
  for item, caption in pairs:
    found.setdefault(item, []).append(caption)
  return found


def write_results(path, rows: Sequence[Mapping]) -> None:
  """The results file of the COCO caption evaluation, whole or not at all."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.parent / f"{path.name}.tmp"
  partial.write_text(json.dumps(list(rows), ensure_ascii=False))
  partial.replace(path)
