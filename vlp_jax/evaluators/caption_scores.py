"""BLEU-1 to 4, ROUGE-L and CIDEr-D of captions, exactly as the COCO caption tools.

Agrees with pycocoevalcap 1.2 (`Bleu`, `Rouge`, `Cider`) item by item, and so with the
scores that papers print from it; METEOR is another program's (`evaluators.meteor`).
BLEU is a figure of the whole set, ROUGE-L and CIDEr-D are means over items. All values
are fractions: papers print BLEU and ROUGE-L times 100, CIDEr-D either way.

An item is a hypothesis with its references, all lists of tokens (see `tokenise`). The
published scorers take them joined by blanks and part them anew, each in its own way:
BLEU and CIDEr at blanks of any kind, so that the "1\\xa01/2" of the PTB tokeniser is
two words there, ROUGE at single blanks, so that it is one, and two blanks in a row have
an empty word between them.
"""

import collections
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.evaluators import ptb
from vlp_jax.resolve import nearest

Tokens = Sequence[str]
ORDERS = 4  # n-grams up to this length
_TINY, _SMALL = 1e-15, 1e-9  # what the published code adds to counts
_BETA = 1.2  # of ROUGE-L: recall counts more than precision
_SIGMA = 6.0  # of CIDEr-D's penalty on lengths, in bigrams


class Score(NamedTuple):
  """Of the set, and of each item alone, [n] float64."""

  value: float
  each: np.ndarray


def _whitespace(caption: str) -> list[str]:
  return caption.split(" ")


def _alphanumeric(caption: str) -> list[str]:
  return re.findall("[a-z0-9']+", caption.lower())


# "ptb" is the COCO tools'; "whitespace" that of nlg-eval, with text as it is.
TOKENISERS: dict[str, Callable[[str], list[str]]] = {
  "ptb": ptb.tokens,
  "whitespace": _whitespace,
  "alphanumeric": _alphanumeric,
}


def check(captions: Sequence[str], what: str) -> None:
  """Raises: UserError that names the first of `captions` that is no string, or them."""
  if isinstance(captions, str) or not isinstance(captions, Sequence):
    raise UserError(f"{what} is {captions!r}; it must be a list of captions.")
  for k, caption in enumerate(captions):
    if not isinstance(caption, str):
      raise UserError(f"{what}[{k}] is {caption!r}; a caption is a string.")


def tokenise(
  captions: Sequence[str], tokenizer: str = "ptb", *, what: str = "captions"
) -> list[list[str]]:
  """Tokens of each caption.

  Raises: UserError for an unknown tokenizer, or what is no list of strings, as `what`.
  """
  if tokenizer not in TOKENISERS:
    raise UserError(f"tokenizer={tokenizer!r}.{nearest(tokenizer, TOKENISERS)}")
  check(captions, what)
  return [TOKENISERS[tokenizer](caption) for caption in captions]


def score(
  references: Sequence[Sequence[str]],
  hypotheses: Sequence[str],
  *,
  tokenizer: str = "ptb",
) -> dict[str, Score]:
  """bleu1 to bleu4, rouge_l, cider_d of captions as strings; one hypothesis an item.

  Raises: UserError if an item's references are no list of strings, or a hypothesis is
    no string.
  """
  refs = [
    tokenise(item, tokenizer, what=f"references[{i}]")
    for i, item in enumerate(references)
  ]
  return of_tokens(refs, tokenise(hypotheses, tokenizer, what="hypotheses"))


def of_tokens(
  references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]
) -> dict[str, Score]:
  """The same of tokens.

  Raises: ValueError if an item has no reference, or is not cut into tokens.
  """
  if len(references) != len(hypotheses) or not len(hypotheses):
    raise ValueError(f"{len(references)} items with {len(hypotheses)} hypotheses.")
  bare = [i for i, item in enumerate(references) if not len(item)]
  if bare:
    raise ValueError(f"{len(bare)} items have no reference, first {bare[:5]}.")
  for i, item in enumerate(zip(references, hypotheses, strict=True)):
    if isinstance(item[1], str) or any(isinstance(ref, str) for ref in item[0]):
      raise ValueError(f"item {i} is {item}; it must be of tokens, see `tokenise`.")
  out = {f"bleu{n}": s for n, s in enumerate(bleu(references, hypotheses), 1)}
  out["rouge_l"] = rouge_l(references, hypotheses)
  out["cider_d"] = cider_d(references, hypotheses)
  return out


def words(tokens: Tokens) -> list[str]:
  """The tokens as BLEU and CIDEr part them: none is empty or has a blank inside."""
  return " ".join(tokens).split()


def ngrams(tokens: Tokens) -> collections.Counter:
  """Counts of all n-grams up to `ORDERS`, as tuples."""
  return collections.Counter(
    tuple(tokens[i : i + n])
    for n in range(1, ORDERS + 1)
    for i in range(len(tokens) - n + 1)
  )


def bleu(
  references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]
) -> list[Score]:
  """BLEU-n = brevity * (prod_{m<=n} p_m)^(1/n), n = 1..4, of counts over the set.

  p_m = (clipped matches + 1e-15) / (m-grams + 1e-9). The brevity penalty compares the
  summed lengths with those of the references closest to each hypothesis, the shorter
  of two as close. An item's own score is the same formula on its counts. Source:
  Papineni et al. 2002, constants of the COCO tools.
  """
  counts = np.zeros((len(hypotheses), 2 * ORDERS + 2))  # matches, guesses, lengths
  for row, refs, hyp in zip(counts, references, hypotheses, strict=True):
    refs, hyp, most = [*map(words, refs)], words(hyp), collections.Counter()
    for ref in refs:
      most |= ngrams(ref)
    for gram, count in ngrams(hyp).items():
      row[len(gram) - 1] += min(count, most[gram])
    row[ORDERS : 2 * ORDERS] = [max(0, len(hyp) - n) for n in range(ORDERS)]
    closest = min((abs(len(ref) - len(hyp)), len(ref)) for ref in refs)[1]
    row[-2:] = len(hyp), closest
  each, whole = _bleu(counts), _bleu(counts.sum(axis=0, keepdims=True))
  return [Score(float(whole[0, n]), each[:, n]) for n in range(ORDERS)]


def _bleu(counts):
  """[n, 4] from rows of matches, guesses, length and reference length."""
  matches, guesses = counts[:, :ORDERS], counts[:, ORDERS : 2 * ORDERS]
  product = np.cumprod((matches + _TINY) / (guesses + _SMALL), axis=1)
  value = product ** (1.0 / np.arange(1, ORDERS + 1))
  ratio = (counts[:, -2:-1] + _TINY) / (counts[:, -1:] + _SMALL)
  with np.errstate(over="ignore"):  # an empty hypothesis: exp(-huge) is 0
    return value * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)


def _longest_common(a: Tokens, b: Tokens) -> int:
  """Length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for x in a:
    before, row = row, [0]
    for j, y in enumerate(b):
      row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
  return row[-1]


def rouge_l(
  references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]
) -> Score:
  """F = (1 + b^2) P R / (R + b^2 P), b = 1.2; P and R of the common subsequence.

  P and R are maxima over the references, each on its own. An empty caption counts as
  one empty token, as in the published code. Source: Lin 2004.
  """
  each = []
  for refs, hyp in zip(references, hypotheses, strict=True):
    hyp, refs = list(hyp) or [""], [list(ref) or [""] for ref in refs]
    common = [_longest_common(ref, hyp) for ref in refs]
    p = max(c / len(hyp) for c in common)
    r = max(c / len(ref) for c, ref in zip(common, refs, strict=True))
    f = (1 + _BETA**2) * p * r / (r + _BETA**2 * p) if p and r else 0.0
    each.append(f)
  return Score(float(np.mean(each)), np.array(each))


def cider_d(
  references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]
) -> Score:
  """10 * mean over n = 1..4 and references of clipped tf-idf cosines.

    sim_n = sum_w min(h_w, r_w) r_w / (|h| |r|) * exp(-(l_h - l_r)^2 / (2 * 6^2))

  with h_w = count * (log N - log max(1, df_w)); df counts the items of *this* set whose
  references hold w, so the value depends on the set, and is 0 for a single item.
  Lengths are numbers of bigrams. Source: Vedantam et al. 2015, arXiv 1411.5726.
  """
  counted = [[ngrams(words(ref)) for ref in refs] for refs in references]
  frequency = collections.Counter(w for refs in counted for w in set().union(*refs))
  log_n = math.log(len(hypotheses))
  idf = lambda w: log_n - math.log(max(1, frequency[w]))

  def vector(counts):
    parts, norms, length = [{} for _ in range(ORDERS)], [0.0] * ORDERS, 0
    for w, count in counts.items():
      value = count * idf(w)
      parts[len(w) - 1][w] = value
      norms[len(w) - 1] += value * value
      length += count if len(w) == 2 else 0
    return parts, [math.sqrt(x) for x in norms], length

  each = []
  for refs, hyp in zip(counted, hypotheses, strict=True):
    mine, total = vector(ngrams(words(hyp))), 0.0
    for ref in refs:
      theirs = vector(ref)
      penalty = math.exp(-((mine[2] - theirs[2]) ** 2) / (2 * _SIGMA**2))
      for h, r, h_norm, r_norm in zip(
        mine[0], theirs[0], mine[1], theirs[1], strict=True
      ):
        if h_norm and r_norm:
          dot = sum(min(v, r.get(w, 0.0)) * r.get(w, 0.0) for w, v in h.items())
          total += dot / (h_norm * r_norm) * penalty
    each.append(10 * total / ORDERS / len(refs))
  return Score(float(np.mean(each)), np.array(each))
