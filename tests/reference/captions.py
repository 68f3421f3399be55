"""Caption scores in plain loops, from the definitions; no code shared with ours."""

import itertools
import math


def _grams(tokens, n):
  found = {}
  for i in range(len(tokens) - n + 1):
    gram = " ".join(tokens[i : i + n])
    found[gram] = found.get(gram, 0) + 1
  return found


def bleu(references, hypotheses, n):
  """BLEU-n of the set."""
  logs, hyp_length, ref_length = 0.0, 0, 0
  for refs, hyp in zip(references, hypotheses, strict=True):
    hyp_length += len(hyp)
    lengths = sorted(len(r) for r in refs)
    ref_length += min(lengths, key=lambda x: abs(x - len(hyp)))
  for m in range(1, n + 1):
    right = guesses = 0
    for refs, hyp in zip(references, hypotheses, strict=True):
      for gram, count in _grams(hyp, m).items():
        right += min(count, max(_grams(r, m).get(gram, 0) for r in refs))
        guesses += count
    logs += math.log((right + 1e-15) / (guesses + 1e-9))
  value = math.exp(logs / n)
  if hyp_length < ref_length:
    value *= math.exp(1 - ref_length / hyp_length)
  return value


def rouge_l(refs, hyp):
  """ROUGE-L of an item: the longest common subsequence by trying all subsequences."""

  def common(a, b):
    for size in range(min(len(a), len(b)), 0, -1):
      mine = set(itertools.combinations(a, size))
      if mine & set(itertools.combinations(b, size)):
        return size
    return 0

  p = max(common(r, hyp) / len(hyp) for r in refs)
  r = max(common(r, hyp) / len(r) for r in refs)
  return 0.0 if p * r == 0 else (1 + 1.44) * p * r / (r + 1.44 * p)


def cider_d(references, hypotheses):
  """CIDEr-D of every item."""
  size, out = len(references), []

  def weight(gram, n):
    hit = sum(any(gram in _grams(r, n) for r in refs) for refs in references)
    return math.log(size / max(1, hit))

  for refs, hyp in zip(references, hypotheses, strict=True):
    total = 0.0
    for ref, n in itertools.product(refs, range(1, 5)):
      h = {g: c * weight(g, n) for g, c in _grams(hyp, n).items()}
      r = {g: c * weight(g, n) for g, c in _grams(ref, n).items()}
      norm = math.sqrt(sum(x * x for x in h.values()) * sum(x * x for x in r.values()))
      if norm:
        dot = sum(min(x, r.get(g, 0)) * r.get(g, 0) for g, x in h.items())
        gap = (len(hyp) - 1) - (len(ref) - 1)
        total += dot / norm * math.exp(-gap * gap / 72)
    out.append(10 * total / 4 / len(refs))
  return out
