"""Statements, choices and expressions about images: NLVR2, SNLI-VE, VCR, RefCOCO.

Each function takes the path of a file and yields `example.Example`s.

  nlvr2    JSON lines {identifier: split-set-pair-sentence, sentence, label: "True"};
           the images are <split-set-pair>-img0 and -img1, the label 1 for true
  snli_ve  JSON lines {Flickr30K_ID or Flikr30kID, sentence2, gold_label, pairID}; the
           image is the premise; contradiction 0, entailment 1, neutral 2
  vcr      JSON lines {img_fn, objects, question, answer_choices, answer_label,
           rationale_choices, rationale_label}: lists of words in which a list of
           numbers points to objects. The text is the question, `more` has the rest
  refcoco  a directory with refs(unc).p (or google, umd) and instances.json; a row a
           sentence, `more` has ref_id, ann_id, the box x1 y1 x2 y2 in pixels and, if
           told, the size (width, height) of the image
"""

import pathlib
from collections.abc import Iterator, Sequence

from data_pipelines.readers import packed, tables
from data_pipelines.readers.example import WRONG, Example, clean, listed, mistake
from vlp_jax import errors

FORMATS = ("nlvr2", "snli_ve", "vcr", "refcoco")
ENTAILMENT = ("contradiction", "entailment", "neutral")
TRUTH = {"true": 1, "false": 0}


def _rows(path) -> Iterator[tuple[int, dict]]:
  for number, row in tables.lines(path):
    if not isinstance(row, dict):
      raise mistake(path, f"line {number}", ValueError(f"no JSON object: {row!r:.80}"))
    yield number, row


def nlvr2(path) -> Iterator[Example]:
  """NLVR2 (arXiv 1811.00491)."""
  for number, row in _rows(path):
    try:
      key = row["identifier"]
      split, set_id, pair, sentence = key.rsplit("-", 3)
      if not sentence.isdigit():
        raise ValueError(f"identifier {key}")
      images = tuple(f"{split}-{set_id}-{pair}-img{k}" for k in (0, 1))
      label = TRUTH[row["label"].lower()] if "label" in row else None
      text = clean(row["sentence"])
    except WRONG as error:
      raise mistake(path, f"line {number}", error) from None
    name = {"dev": "val", "test1": "test"}.get(split, split)
    yield Example(key, images, text, name, label)


def snli_ve(path) -> Iterator[Example]:
  """SNLI-VE (arXiv 1901.06706); rows without a gold label are left out."""
  for number, row in _rows(path):
    try:
      name = row.get("Flickr30K_ID", row.get("Flikr30kID", row.get("Flickr30kID")))
      label = row["gold_label"]
      if label == "-":
        continue
      image = str(name) if str(name).endswith(".jpg") else f"{int(name)}.jpg"
      key = str(row.get("pairID", number))
      example = Example(
        key, (image,), clean(row["sentence2"]), label=ENTAILMENT.index(label)
      )
    except WRONG as error:
      raise mistake(path, f"line {number}", error) from None
    yield example


def plain(words: Sequence, objects: Sequence[str]) -> str:
  """VCR's words as text: objects by class and number, "person1 and car3 ?"."""
  out = []
  for word in words:
    if isinstance(word, list):
      out.append(" and ".join(f"{objects[k]}{k + 1}" for k in word))
    else:
      out.append(str(word))
  return clean(" ".join(out))


def vcr(path) -> Iterator[Example]:
  """VCR (arXiv 1811.10830)."""
  for number, row in _rows(path):
    try:
      objects = row["objects"]
      more = {"objects": objects, "question": row["question"]}
      more |= {k: row[k] for k in ("answer_choices", "rationale_choices")}
      more["img_id"] = str(row.get("img_id", ""))
      for kind in ("answer", "rationale"):
        texts = [plain(c, objects) for c in row[f"{kind}_choices"]]
        if len(texts) != 4:
          raise ValueError(f"{len(texts)} {kind} choices")
        more[f"{kind}s"] = texts
        more[f"{kind}_label"] = row.get(f"{kind}_label")
      key = str(row.get("annot_id", number))
      text = plain(row["question"], objects)
      example = Example(
        key, (row["img_fn"],), text, label=row.get("answer_label"), more=more
      )
    except WRONG as error:
      raise mistake(path, f"line {number}", error) from None
    yield example


def refcoco(path) -> Iterator[Example]:
  """RefCOCO, RefCOCO+ and RefCOCOg; the pickle of refs builds plain values only."""
  path = pathlib.Path(path)
  refs = sorted(path.glob("refs(*).p")) if path.is_dir() else [path]
  if len(refs) != 1:
    names = ", ".join(p.name for p in refs) or "none"
    raise errors.UserError(f"{path}: one refs(...).p is expected; found {names}.")
  at = refs[0].with_name("instances.json")
  found = tables.value(at)
  try:
    boxes = {a["id"]: [float(n) for n in a["bbox"]] for a in found["annotations"]}
    sizes = {
      i["id"]: (i["width"], i["height"])
      for i in found.get("images", ())
      if "width" in i
    }
    rows = packed.pickled(refs[0].read_bytes())
  except (OSError, *WRONG) as error:
    raise mistake(refs[0].parent, "instances.json, refs", error) from None
  for number, row in enumerate(listed(rows, refs[0], "refs")):
    try:
      x, y, w, h = boxes[row["ann_id"]]
      more = {"ref_id": row["ref_id"], "ann_id": row["ann_id"]}
      more["box"] = [x, y, x + w, y + h]
      if row["image_id"] in sizes:
        more["size"] = sizes[row["image_id"]]
      for s in row["sentences"]:
        key, name = str(s["sent_id"]), str(row["image_id"])
        yield Example(key, (name,), clean(s["sent"]), row["split"], more=more)
    except WRONG as error:
      raise mistake(refs[0], f"ref {number}", error) from None
