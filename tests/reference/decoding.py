"""Writing token by token, slowly: every text there is, and a beam of tuples.

`model(history)` gives the scores [V] of the next token after a tuple of tokens.
"""

import itertools

import numpy as np


def allowed(history, v, *, end, banned, min_length, no_repeat, immediate):
  """Whether token v may follow, by the rules alone."""
  if v == end:
    return len(history) >= min_length
  if v in banned or (not immediate and history and history[-1] == v):
    return False
  text = (*history, v)
  runs = [text[i : i + no_repeat] for i in range(len(text) - no_repeat + 1)]
  return not no_repeat or len(runs) < 1 or runs[-1] not in runs[:-1]


def log_probs(model, history, *, repetition=1.0, end, **rules):
  """{token: log-probability} of what may follow; the end if nothing may."""
  x = np.array(model(history), np.float64)
  for v in set(history):
    x[v] = x[v] / repetition if x[v] > 0 else x[v] * repetition
  x = x - x.max()
  x = x - np.log(np.exp(x).sum())
  may = [v for v in range(len(x)) if allowed(history, v, end=end, **rules)]
  return {v: x[v] for v in may or [end]}


def penalty(n, alpha, kind):
  return ((5 + n) / 6 if kind == "gnmt" else n) ** alpha


def exhaustive(model, vocab, length, *, alpha, kind, end, **rules):
  """(text, score) of the best text of at most `length` tokens that ends."""
  best = (), -np.inf
  words = [v for v in range(vocab) if v != end]
  for n in range(length):
    for words_of in itertools.product(words, repeat=n):
      text, total = (*words_of, end), 0.0
      for i, v in enumerate(text):
        next_one = log_probs(model, text[:i], end=end, **rules)
        total += next_one.get(v, -np.inf)
        if total == -np.inf:
          break
      score = total / penalty(len(text), alpha, kind)
      if score > best[1]:
        best = text, score
  return best


def greedy(model, length, *, alpha, kind, end, **rules):
  """(text, score) of the likeliest token at each place."""
  text, total = (), 0.0
  while len(text) < length and (not text or text[-1] != end):
    found = log_probs(model, text, end=end, **rules)
    v = max(found, key=found.get)
    text, total = (*text, v), total + found[v]
  return text, total / penalty(len(text), alpha, kind)


def beam(model, length, size, *, alpha, kind, end, **rules):
  """(text, score) of a beam search that never stops early."""
  beams, done = [((), 0.0)], []
  for _ in range(length):
    more = [
      ((*text, v), total + p)
      for text, total in beams
      for v, p in log_probs(model, text, end=end, **rules).items()
    ]
    more.sort(key=lambda x: -x[1])
    done += [x for x in more[:size] if x[0][-1] == end]
    beams = [x for x in more if x[0][-1] != end][:size]
  scored = [(t, p / penalty(len(t), alpha, kind)) for t, p in done or beams[:1]]
  return max(scored, key=lambda x: x[1])
