"""Answers of visual question answering: one spelling, soft scores, lists of labels.

`official` is the rule of the VQA evaluation (Antol et al., 2015), `lxmert` that of
LXMERT's answer list. Scores: an answer that k of ten people gave counts min(1, 0.3 k).
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence

from data_pipelines.readers import tables
from vlp_jax import errors

_DIGIT_WORDS = "one two three four five six seven eight nine ten"
NUMBERS = {w: str(n) for n, w in enumerate(_DIGIT_WORDS.split(), 1)}
NUMBERS |= {"none": "0", "zero": "0"}
ARTICLES = ("a", "an", "the")
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Spelt without their apostrophe, these get it back.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've
something'll that's there'd there'd've there're there's they'd they'd've they'll
they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've
you'll you're you've
"""


def _spellings(word: str):
  """The word without one or without all of its apostrophes."""
  for k, letter in enumerate(word):
    if letter == "'":
      yield word[:k] + word[k + 1 :]
  yield word.replace("'", "")


_RESTORE = {other: word for word in CONTRACTIONS.split() for other in _spellings(word)}
_DIGITS = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")


def official(answer: str) -> str:
  """One spelling of an answer: punctuation, number words, articles, apostrophes.

  A mark beside a blank vanishes, and all marks where a comma parts digits ("1,000");
  others become blanks. A full stop stays before a digit.
  """
  text = " ".join(str(answer).split())
  joined = _DIGITS.search(text) is not None
  out = text
  for mark in MARKS:
    beside = f"{mark} " in text or f" {mark}" in text
    out = out.replace(mark, "" if beside or joined else " ")
  words = (NUMBERS.get(w, w) for w in _STOP.sub("", out).lower().split())
  return " ".join(_RESTORE.get(w, w) for w in words if w not in ARTICLES)


def lxmert(answer: str) -> str:
  """LXMERT's spelling: lower case, no final stop, no leading article, digits, gray."""
  text = " ".join(str(answer).lower().split()).removesuffix(".").strip()
  for article in ARTICLES:
    text = text.removeprefix(f"{article} ")
  return " ".join("gray" if w == "grey" else NUMBERS.get(w, w) for w in text.split())


def soft(answers: Sequence[str]) -> dict[str, float]:
  """{answer: min(1, 0.3 * people)} of what people answered, most frequent first.

  Where they do not all agree letter by letter, spellings are made one before.
  """
  plain = [" ".join(str(a).split()) for a in answers]
  if len(set(plain)) > 1:
    plain = [official(a) for a in plain]
  counts = collections.Counter(a for a in plain if a)
  return {a: min(1.0, 3 * n / 10) for a, n in counts.most_common()}


def frequent(answers: Iterable[str], least: int = 9) -> list[str]:
  """Answers that occur at least so often, sorted: VQA v2's 3129 with 9."""
  counts = collections.Counter(answers)
  return sorted(a for a, n in counts.items() if n >= least and a)


def labels(path) -> list[str]:
  """Answers in label order: a JSON list, or a JSON object of answer -> label.

  Raises: UserError if it is neither, an answer repeats, or a label is left out.
  """
  found = tables.value(path)
  if isinstance(found, Mapping):
    try:
      if sorted(found.values()) == list(range(len(found))):
        return sorted(found, key=found.get)
    except TypeError:
      found = None
  texts = isinstance(found, list) and all(isinstance(a, str) for a in found)
  if not texts or len(set(found)) != len(found) or not found:
    raise errors.UserError(
      f"{path}: a JSON list of distinct answers is expected, or an object of answers "
      "with labels 0, 1, ..."
    )
  return found
