r"""CLIP's byte pair encoding: lower case, "</w>" ends a word (arXiv 2103.00020).

Ids: 256 bytes, 256 bytes that end a word, a token for each merge, <|startoftext|>,
<|endoftext|>. Of the published `bpe_simple_vocab_16e6.txt.gz` the first 48,894 merges
are used, which makes V = 49,408. Text is cleaned by a switch:

  clean="nfc"   as the released conversion to the `tokenizers` library: NFC, white space
                to one space, lower case letter by letter. Needs no other package, and
                the input pipeline can do it natively: the default
  clean="ftfy"  as the first code: `ftfy.fix_text` (mojibake, curly quotes, ligatures,
                wide letters), HTML entities twice, white space to one space, lower case
                by words ("ΟΔΟΣ" ends in a final sigma). Plain text gets the same ids

Differences from the published code, which are deliberate: "<|endoftext|>" in a text
gives pieces and not the special id; pad_id is <|endoftext|> and not 0, which is "!"
(models read the mask: what stands in the padding changes nothing).
"""

import functools
import gzip
import html
import re
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import normalizers, pre_tokenizers

from data_pipelines.vocabularies import byte_pairs, files
from vlp_jax import vocab
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

KIND = "clip_bpe"
END = "</w>"
START_OF_TEXT, END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"
SIZE = 49_408
CLEAN = ("nfc", "ftfy")
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def published(text: str) -> str:
  """The cleaning of CLIP's first code. Needs the package ftfy."""
  try:
    import ftfy
  except ImportError:
    raise UserError(
      "vocab.clean='ftfy' needs the package ftfy (pip install 'ftfy>=6.1,<7'); or set "
      "clean='nfc', equal on plain text."
    ) from None
  text = html.unescape(html.unescape(ftfy.fix_text(files.encodable(text))))
  return files.encodable(re.sub(r"\s+", " ", text).strip().lower())


def _normalizer():
  white = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
  return normalizers.Sequence([normalizers.NFC(), white, normalizers.Lowercase()])


def _words():
  words = pre_tokenizers.Split(tokenizers.Regex(_WORD), "removed", invert=True)
  visible = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return pre_tokenizers.Sequence([words, visible])


class Vocabulary:
  """CLIP's tokens for the given merges.

  Args:
    merges: pairs of tokens in order of rank.
    clean: "nfc" or "ftfy", see above.
  """

  kind, cased = KIND, False

  def __init__(self, merges: Sequence[byte_pairs.Merge], *, clean: str = "nfc"):
    if clean not in CLEAN:
      raise UserError(f"vocab.clean={clean!r}.{nearest(clean, CLEAN)}")
    self._merges, self.clean = tuple(merges), clean
    letters = sorted(byte_pairs.alphabet())
    made = ["".join(pair) for pair in merges]
    ends = [f"{c}{END}" for c in letters]
    self.tokens = (*letters, *ends, *made, START_OF_TEXT, END_OF_TEXT)
    files.check(self.tokens, "clip_bpe vocabulary")
    ids = {token: i for i, token in enumerate(self.tokens)}
    size = len(ids)
    self._engine = byte_pairs.Engine(
      ids,
      merges,
      specials=(START_OF_TEXT, END_OF_TEXT),
      suffix=END,
      normalizer=_normalizer() if clean == "nfc" else None,
      pre_tokenizer=_words(),
      what="clip_bpe vocabulary",
    )
    digest = self._engine.merges_digest
    self.digest = files.digest(KIND, False, self.tokens, clean=clean, merges=digest)
    self.spec = vocab.Vocab(
      size=size,
      pad_id=size - 1,
      cls_id=size - 2,
      sep_id=size - 1,
      special_ids=(size - 2, size - 1),
      valid_range=(0, size - 2),
      digest=self.digest,
    )
    if clean == "ftfy":
      published("")  # says now if the package is missing

  @property
  def engine(self) -> byte_pairs.Engine:
    """Byte ids and merges, for the pipeline's tokeniser."""
    return self._engine

  def _clean(self, text: str) -> str:
    return published(text) if self.clean == "ftfy" else files.encodable(text)

  def encode(self, text: str) -> list[int]:
    """Ids of the text, without start and end."""
    return self._engine.encode(self._clean(text)).ids

  def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
    """`encode` of each text, on all cores."""
    return self._engine.encode_all([self._clean(text) for text in texts])

  def word_ids(self, text: str) -> list[int]:
    """For each id of `encode`, the number of its word in the text, from 0."""
    return self._engine.encode(self._clean(text)).word_ids

  def decode(self, ids: Iterable[int]) -> str:
    """Words parted by blanks, bytes that are no UTF-8 as U+FFFD; no start, no end."""
    kept = (self.tokens[i] for i in map(int, ids) if i in self._engine.made)
    words = (
      byte_pairs.to_bytes(t.removesuffix(END)) + b" " * t.endswith(END) for t in kept
    )
    return b"".join(words).decode("utf-8", "replace").strip()

  def save(self, file) -> None:
    """Writes the merges, as gzip if the name ends in .gz."""
    data = byte_pairs.text_of(self._merges).encode()
    name = str(file)
    files.write_bytes(
      file, gzip.compress(data, mtime=0) if name[-3:] == ".gz" else data
    )


@functools.lru_cache(maxsize=8)
def _load(file, clean, size):
  merges = byte_pairs.read_merges(file)
  if size and len(merges) < size - 514:
    raise UserError(
      f"{file} has {len(merges)} merges; size={size} needs {size - 514}. Is the file "
      "whole? Set size=0 to take all that are there."
    )
  return Vocabulary(merges[: size - 514] if size else merges, clean=clean)


def load(file: str, clean: str = "nfc", size: int = SIZE) -> Vocabulary:
  """The vocabulary of a merges file, plain or gzip.

  Args:
    size: V: 256 + 256 + merges + 2. The published file has more merges than are used.
      0 takes all.
  """
  if size and size < 514:
    raise UserError(f"vocab.size={size}; bytes and special tokens alone are 514.")
  return _load(str(file), clean, size)
