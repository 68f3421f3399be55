r"""Word dictionary of the HowTo100M models: id = place + 1, 0 = padding and unknown.

Words are the matches of `[\w']+`; those not in the dictionary are dropped (arXiv
1912.06430; its dictionary has 66,249 words, so V = 66,250). There are no other special
tokens, so no text can yield one.
"""

import collections
import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from data_pipelines.vocabularies import files
from vlp_jax import vocab
from vlp_jax.errors import UserError

KIND = "words"
WORD = re.compile(r"[\w']+")


def _split(text: str, cased: bool) -> list[str]:
  words = WORD.findall(text if cased else text.lower())
  return [w.encode("utf-8", "ignore").decode("utf-8") for w in words]


class Vocabulary:
  """Dictionary over the given words.

  Args:
    words: V - 1 words; word k has id k + 1.
    cased: compare as written, as the published code does. None: exactly if some word
      has a capital, so that "Red" is found in a dictionary of lower-case words.
  """

  def __init__(self, words: Sequence[str], *, cased: bool | None = None):
    words = [str(w) for w in words]
    if not words:
      raise UserError("word dictionary is empty.")
    files.check(words, "word dictionary")
    self.tokens = ("", *words)
    self.cased = any(w != w.lower() for w in words) if cased is None else bool(cased)
    self.digest = files.digest(KIND, self.cased, self.tokens)
    self._ids = {w: i for i, w in enumerate(words, 1)}
    self.spec = vocab.Vocab(
      size=len(self.tokens),
      pad_id=0,
      unk_id=0,
      special_ids=(0,),
      valid_range=(1, len(self.tokens)),
      digest=self.digest,
    )

  def encode(self, text: str) -> list[int]:
    """Ids of the words that are in the dictionary; the others are dropped."""
    found = (self._ids.get(w) for w in _split(text, self.cased))
    return [i for i in found if i is not None]

  def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
    """`encode` of each text."""
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    """Words parted by blanks; id 0 is left out."""
    return " ".join(self.tokens[i] for i in map(int, ids) if i)

  def save(self, file) -> None:
    """Writes the dictionary, one word a line; the line number is the id."""
    files.write_lines(file, self.tokens[1:])

  def vectors(self, path) -> np.ndarray:
    """Word vectors of a word2vec text file (`word v1 ... vD` a line, maybe a header).

    Returns: [V, D] float32; row 0 and words that the file lacks are zeros.
    Raises: UserError if lines differ in width, or no word of the dictionary is there.
    """
    table = None
    with epath.Path(path).open("r", encoding="utf-8") as f:
      for number, line in enumerate(f, 1):
        word, *values = line.rstrip().split(" ")
        if number == 1 and len(values) == 1 and values[0].isdigit():
          continue  # the header: number of words, width
        if word not in self._ids:
          continue
        if table is None:
          table = np.zeros((len(self.tokens), len(values)), np.float32)
        try:
          vector = np.array(values, np.float32)
        except ValueError:
          vector = None
        if vector is None or vector.shape != table.shape[1:]:
          raise UserError(
            f"{path}, line {number}: {len(values)} values for {word!r}; "
            f"expected {table.shape[1]} numbers."
          )
        table[self._ids[word]] = vector
    if table is None:
      raise UserError(f"{path} has a vector for none of {len(self._ids)} words.")
    return table


def _read(file: str) -> list[str]:
  if not file.endswith(".npy"):
    return files.read_lines(file)
  path = epath.Path(file)
  if not path.is_file():
    raise UserError(f"word dictionary {path} is missing; give the path of a file.")
  from vlp_jax.importers import read  # imports jax, which text files do not need

  array = read.npy(path)
  if array.ndim != 1 or array.dtype.kind not in "US":
    raise UserError(f"{path} holds {array.dtype}{list(array.shape)}; expected [V] str.")
  return [w.decode() if isinstance(w, bytes) else w for w in array.tolist()]


@functools.lru_cache(maxsize=8)
def _load(file: str, cased: bool | None) -> Vocabulary:
  return Vocabulary(_read(file), cased=cased)


def load(file: str, cased: bool | None = None) -> Vocabulary:
  """The dictionary of a text file (one word a line) or of `dict.npy` ([V - 1] str)."""
  return _load(str(file), cased)


def learn(
  texts: Sequence[str],
  min_count: int = 1,
  size: int = 0,
  cased: bool = False,
) -> Vocabulary:
  """Words that occur at least `min_count` times, by frequency, then by alphabet.

  Args:
    texts: sentences, in any order.
    size: upper bound of V, 0 for none.
    cased: keep capitals.
  """
  counts = collections.Counter()
  for text in texts:
    counts.update(w for w in _split(text, cased) if w)
  order = sorted(counts, key=lambda w: (-counts[w], w))
  kept = [w for w in order if counts[w] >= min_count]
  if not kept:
    raise UserError(f"no word occurs {min_count} times; nothing to learn from.")
  return Vocabulary(kept[: size - 1] if size else kept, cased=cased)
