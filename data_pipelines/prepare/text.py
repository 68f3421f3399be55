"""Plain text: documents of sentences, for BERT's pairs and language models.

The source is a file or a directory of .txt, .jsonl or .gz of these. In .txt a line is a
sentence and an empty line ends a document; a file's end does too. In .jsonl a line is a
document {"sentences": [str]} or {"text": str}, cut into sentences behind . ! ? and a
blank. Licences are those of the source.

Result: SequenceExamples of kind `text`: context `key`, list `sentence/text` (UTF-8),
and the index column num_sentences; every `test_share`-th document is the split test.
`task: sentences` streams them.
"""

import gzip
import json
import pathlib
import re
from collections.abc import Iterator, Mapping

from data_pipelines import records, vocabularies
from data_pipelines.prepare import shards
from data_pipelines.readers import narrated
from vlp_jax import errors

COLUMNS = ("num_sentences",)
SUFFIXES = (".txt", ".jsonl")
_END = re.compile(r"(?<=[.!?])\s+")


def prepare(
  source,
  out,
  *,
  test_share: int = 20,
  limit: int = 0,
  vocab: str = "wordpiece",
  vocab_file: str = "",
  vocab_size: int = 8192,
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Prepares documents of sentences.

    test_share   every so many-th document is held out, 0 for none
    limit        documents, 0 for all
    vocab        kind of the vocabulary, as wordpiece
    vocab_file   an existing vocabulary instead of one learned from the training texts
    vocab_size   upper bound of the learned one

  Returns: dataset_info, or the estimate of a dry run.
  """
  if test_share < 0 or test_share == 1 or limit < 0:
    raise errors.UserError(
      f"test_share={test_share}, limit={limit}: 0, or 2 and more; 0 or a number."
    )
  rows = []
  for key, sentences in _documents(pathlib.Path(source)):
    rows.append({"key": key, "sentences": sentences})
    if limit and len(rows) == limit:
      break
  if not rows:
    raise errors.UserError(f"{source} holds no document.")
  held = {
    i for i in range(len(rows)) if test_share and i % test_share == test_share - 1
  }
  splits = {"train": [r for i, r in enumerate(rows) if i not in held]}
  if held:
    splits["test"] = [rows[i] for i in sorted(held)]
  if vocab_file:
    words = vocabularies.build({"name": vocab, "file": vocab_file})
  else:
    texts = [text for row in splits["train"] for text in row["sentences"]]
    words = vocabularies.learn(vocab, texts, size=vocab_size)
  about = {"size": words.spec.size, "digest": words.digest}
  written = shards.write(
    out,
    splits,
    record,
    columns=COLUMNS,
    settings={
      "dataset": "text",
      "limit": limit,
      "test_share": test_share,
      "vocab_digest": words.digest,
    },
    info={
      "name": "text",
      "kind": "text",
      "licence": "see the source",
      "vocab": {"name": vocab, "file": "vocab.txt", **about},
    },
    per_shard=2048,
    processes=processes,
    dry_run=dry_run,
    quiet=quiet,
  )
  if not dry_run:
    words.save(pathlib.Path(out) / "vocab.txt")
  return written


def record(row: Mapping) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of one document.

  Raises: ValueError for one without a sentence.
  """
  texts = [" ".join(narrated.text_of(t).split()) for t in row["sentences"]]
  texts = [t for t in texts if t]  # one line each
  if not texts:
    raise ValueError("no sentence")
  lists = {"sentence/text": texts}
  return records.encode({"key": row["key"]}, lists), {"num_sentences": len(texts)}


def _documents(source: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """(key, sentences) of all files, in order of their names."""
  known = lambda p: p.name.removesuffix(".gz").endswith(SUFFIXES)
  files = [source] if source.is_file() else sorted(source.rglob("*"))
  files = [p for p in files if p.is_file() and known(p)]
  if not files:
    raise errors.UserError(
      f"{source}: no {', '.join(SUFFIXES)} file (or .gz of these) is there."
    )
  for path in files:
    name = path.name if source.is_file() else path.relative_to(source).as_posix()
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
      with open_file(path, "rt", encoding="utf-8", newline=None) as f:
        jsonl = path.name.removesuffix(".gz").endswith(".jsonl")
        yield from (_jsonl if jsonl else _txt)(f, name)
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
      raise errors.UserError(f"{path} is no UTF-8 text: {error}.") from None


def _txt(f, name):
  document, number = [], 0
  for line in f:
    if line.strip():
      document.append(line.strip())
    elif document:
      yield f"{name}:{number}", document
      document, number = [], number + 1
  if document:
    yield f"{name}:{number}", document


def _jsonl(f, name):
  for number, line in enumerate(f):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      found = row["sentences"] if "sentences" in row else _END.split(row["text"])
    except (ValueError, KeyError, TypeError) as error:
      raise errors.UserError(
        f"{name}:{number + 1} is no document: {type(error).__name__} {error}."
      ) from None
    yield f"{name}:{number}", [t for t in found if isinstance(t, str)]
