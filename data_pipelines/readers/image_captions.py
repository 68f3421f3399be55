"""Captions of images: COCO, Karpathy's splits, Flickr30k, SBU, Visual Genome, CC3M.

Each function takes the path of an annotation file and yields `example.Example`s in the
order of the file. Names of images are those of the file; `regions.lookup` finds them
among the names of region files.

  coco        captions_train2014.json: {images: [{id, file_name}], annotations: [{id,
              image_id, caption}]}
  karpathy    dataset_coco.json, dataset_flickr30k.json: {images: [{filename, split,
              sentences: [{raw, sentid}]}]}; "restval" is part of train
  flickr      results_20130124.token: `1000092795.jpg#0`, tab, caption
  sbu         sbu-captions-all.json {image_urls, captions}, or a directory with the two
              files SBU_captioned_photo_dataset_{urls,captions}.txt
  vg_regions  region_descriptions.json: [{id, regions: [{region_id, image_id, phrase}]}]
  cc3m        tsv or csv of caption and url, with or without a header, or of caption and
              path; the image of a url is called crc32(url)
  lxmert      [{img_id, sentf: {source: [text]}, labelf: {source: [{answer: score}]}}]
  uniter      a text LMDB; `words` maps its ids to text
  lines       JSON lines {image, text}, if there key, split, label
"""

import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Sequence

from data_pipelines.readers import tables, uniter_lmdb
from data_pipelines.readers.example import WRONG, Example, clean, listed, mistake
from vlp_jax import errors

FORMATS = ("coco", "karpathy", "flickr", "sbu", "vg_regions", "cc3m", "lxmert")
FORMATS += ("uniter", "lines")
URLS, CAPTIONS = (f"SBU_captioned_photo_dataset_{k}.txt" for k in ("urls", "captions"))
FLICKR_ID = re.compile(r"(\d{5,})_[0-9a-f]{6,}")


def coco(path) -> Iterator[Example]:
  """COCO captions; the name of an image is its file's."""
  found = tables.value(path)
  try:
    names = {i["id"]: str(i.get("file_name", i["id"])) for i in found["images"]}
    rows = found["annotations"]
  except WRONG as error:
    raise mistake(path, "images", error) from None
  for number, row in enumerate(listed(rows, path, "annotations")):
    try:
      name = names.get(row["image_id"], str(row["image_id"]))
      key, text = str(row.get("id", number)), row["caption"]
    except WRONG as error:
      raise mistake(path, f"annotation {number}", error) from None
    yield Example(key, (name,), clean(text))


def karpathy(path) -> Iterator[Example]:
  """Karpathy's splits of COCO, Flickr30k and Flickr8k."""
  try:
    images = tables.value(path)["images"]
  except WRONG as error:
    raise mistake(path, "images", error) from None
  for number, row in enumerate(listed(images, path, "images")):
    try:
      split = "train" if row["split"] == "restval" else row["split"]
      for k, sentence in enumerate(row["sentences"]):
        key = str(sentence.get("sentid", f"{number}-{k}"))
        yield Example(key, (row["filename"],), clean(sentence["raw"]), split)
    except WRONG as error:
      raise mistake(path, f"image {number}", error) from None


def flickr(path) -> Iterator[Example]:
  """Flickr30k's file of tokens, captions parted by single blanks."""
  for number, line in enumerate(tables.read(path).splitlines(), 1):
    if not line.strip():
      continue
    key, tab, text = line.partition("\t")
    name, mark, _ = key.rpartition("#")
    if not (tab and mark):
      raise mistake(path, f"line {number}", ValueError("<image>#<k>, tab, caption"))
    yield Example(key, (name,), clean(text))


def sbu(path) -> Iterator[Example]:
  """SBU captions; an image is called as the last part of its url."""
  path = pathlib.Path(path)
  if path.is_dir():
    urls, texts = (tables.read(path / k).splitlines() for k in (URLS, CAPTIONS))
  else:
    found = tables.value(path)
    try:
      urls, texts = (listed(found[k], path, k) for k in ("image_urls", "captions"))
    except WRONG as error:
      raise mistake(path, "image_urls, captions", error) from None
  if len(urls) != len(texts):
    raise errors.UserError(f"{path}: {len(urls)} urls and {len(texts)} captions.")
  for number, (url, text) in enumerate(zip(urls, texts, strict=True)):
    name = str(url).strip().rsplit("/", 1)[-1]
    yield Example(str(number), (name,), clean(text), more={"url": str(url).strip()})


def vg_regions(path) -> Iterator[Example]:
  """Visual Genome's region descriptions, each about its whole image."""
  for number, row in enumerate(listed(tables.value(path), path, "images")):
    try:
      for r in row["regions"]:
        name = str(r.get("image_id", row.get("id", row.get("image_id"))))
        yield Example(str(r["region_id"]), (name,), clean(r["phrase"]))
    except WRONG as error:
      raise mistake(path, f"image {number}", error) from None


def cc3m(path) -> Iterator[Example]:
  """Conceptual Captions; see the header."""
  path = pathlib.Path(path)
  tab = path.suffix != ".csv"
  delimiter = "\t" if tab else ","
  for number, row in tables.fields(path, delimiter=delimiter, quoted=not tab):
    if len(row) < 2:
      raise mistake(path, f"line {number}", ValueError("caption and url are expected"))
    caption, place = row[0], row[1].strip()
    if number == 1 and caption.strip().lower() in ("caption", "title"):
      continue
    url = "://" in place
    name = str(zlib.crc32(place.encode("utf-8", "replace"))) if url else place
    more = {"url": place} if url else {}
    yield Example(str(number), (name,), clean(caption), more=more)


def lxmert(path) -> Iterator[Example]:
  """LXMERT's aggregated sentences; those of question sets carry answers."""
  for number, row in enumerate(listed(tables.value(path), path, "rows")):
    try:
      name, labels = str(row["img_id"]), row.get("labelf") or {}
      for source, texts in row["sentf"].items():
        told = labels.get(source) or [{}] * len(texts)
        for k, (text, scores) in enumerate(zip(texts, told, strict=True)):
          answers = tuple((a, float(s)) for a, s in scores.items())
          key = f"{name}-{source}-{k}"
          yield Example(
            key, (name,), clean(text), answers=answers, more={"source": source}
          )
    except WRONG as error:
      raise mistake(path, f"row {number}", error) from None


def uniter(path, words: Callable[[Sequence[int]], str] | None = None):
  """UNITER's text LMDB: its own sentence if stored, else the words of its ids."""
  for row in uniter_lmdb.texts(path):
    stored = [row.fields.get(k) for k in ("sentence", "caption", "question", "sent")]
    text = next((t for t in stored if isinstance(t, str)), None)
    if text is None and words is None:
      raise errors.UserError(
        f"{path} holds ids of tokens only; give the vocabulary they were made with "
        "(--vocab_file bert-base-cased-vocab.txt)."
      )
    text = words(row.input_ids) if text is None else text
    target, answers, label = row.fields.get("target"), (), None
    if isinstance(target, dict):
      pairs = zip(target.get("labels", []), target.get("scores", []), strict=True)
      answers = tuple((str(a), float(s)) for a, s in pairs)
    elif isinstance(target, int):
      label = target
    yield Example(row.key, row.images, clean(text), label=label, answers=answers)


def lines(path) -> Iterator[Example]:
  """Our own JSON lines."""
  for number, row in tables.lines(path):
    try:
      if isinstance(row, Exception):
        raise ValueError(str(row))
      key, split, label = str(row.get("key", number)), row.get("split", ""), None
      if row.get("label") is not None:
        label = int(row["label"])
      yield Example(key, (str(row["image"]),), clean(row["text"]), str(split), label)
    except WRONG as error:
      raise mistake(path, f"line {number}", error) from None


def flickr_id(name: str) -> str | None:
  """The Flickr photo of a url or file name as `4385058960_b0f291553e.jpg`."""
  found = FLICKR_ID.search(str(name).rsplit("/", 1)[-1])
  return found[1] if found else None
