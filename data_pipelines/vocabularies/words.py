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

from data_pipelines.vocabularies import files, word_vectors
from vlp_jax import vocab
from vlp_jax.errors import UserError
from vlp_jax.formats import read as read_lib

KIND = "words"
WORD = re.compile(r"[\w']+")


def _split(text: str, cased: bool) -> list[str]:
  words = WORD.findall(text if cased else text.lower())
  return [files.encodable(w) for w in words]


class Vocabulary:
  """Dictionary over the given words.

  Args:
    words: V - 1 words; word k has id k + 1.
    cased: compare as written, as the published code does. None: exactly if some word
      has a capital, so that "Red" is found in a dictionary of lower-case words.
    stop_words: words of the dictionary that are dropped from texts all the same.
  """

  kind = KIND

  def __init__(
    self,
    words: Sequence[str],
    *,
    cased: bool | None = None,
    stop_words: Iterable[str] = (),
  ):
    words = [str(w) for w in words]
    if not words:
      raise UserError("word dictionary is empty.")
    files.check(words, "word dictionary")
    self.tokens = ("", *words)
    self.cased = any(w != w.lower() for w in words) if cased is None else bool(cased)
    self.stop_words = frozenset(stop_words) & set(words)
    stopped = {"stop": ",".join(sorted(self.stop_words))} if self.stop_words else {}
    self.digest = files.digest(KIND, self.cased, self.tokens, **stopped)
    self._ids = {w: i for i, w in enumerate(words, 1) if w not in self.stop_words}
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

  def word_ids(self, text: str) -> list[int]:
    """For each id of `encode`, the place of its word in the text; others count too."""
    words = enumerate(_split(text, self.cased))
    return [place for place, w in words if w in self._ids]

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
    """Word vectors of a file that `word_vectors` reads.

    Returns: [V, D] float32; row 0 and words that the file lacks are zeros.
    Raises: UserError if the file is damaged, or has no word of the dictionary.
    """
    table, _ = word_vectors.read(path, self.tokens[1:])
    return np.concatenate([np.zeros_like(table[:1]), table])


def _read(file: str) -> list[str]:
  if not file.endswith(".npy"):
    return files.read_lines(file)
  path = epath.Path(file)
  if not path.is_file():
    raise UserError(f"word dictionary {path} is missing; give the path of a file.")
  array = read_lib.npy(path)
  if array.ndim != 1 or array.dtype.kind not in "US":
    raise UserError(f"{path} holds {array.dtype}{list(array.shape)}; expected [V] str.")
  return [w.decode() if isinstance(w, bytes) else w for w in array.tolist()]


@functools.lru_cache(maxsize=8)
def _load(file: str, cased: bool | None, stop_words: str) -> Vocabulary:
  stopped = files.read_lines(stop_words) if stop_words else ()
  return Vocabulary(_read(file), cased=cased, stop_words=stopped)


def load(file: str, cased: bool | None = None, stop_words: str = "") -> Vocabulary:
  """The dictionary of a text file (one word a line) or of `dict.npy` ([V - 1] str).

  Args:
    cased: as in `Vocabulary`.
    stop_words: a text file of words to drop, one a line (arXiv 1906.03327, 2006.16228).
  """
  return _load(str(file), cased, str(stop_words))


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
