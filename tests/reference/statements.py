"""Slow oracles of statements: one reads programmes, one reads the English."""

import itertools
import re

import numpy as np

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"]
SIZE = {"little": "small", "large": "big", "medium-sized": "medium"}
NOUN = re.compile(
  r"(?:(small|little|medium-sized|medium|big|large) )?"
  r"(?:(black|blue|yellow)(?: or (black|blue|yellow))? )?"
  r"\b(item|object|block|circle|square|triangle)s?\b"
)
AMOUNT = re.compile(
  r"(exactly|only|at least|more than|at most|less than|fewer than) (\w+)"
)


def table(scene):
  """Columns of the objects, and the picture's pixels of their boxes."""
  get = lambda f: np.array([f(o) for o in scene.objects])
  side = get(lambda o: {"small": 10, "medium": 20, "big": 30}[o.size])
  return {
    "shape": get(lambda o: o.shape),
    "colour": get(lambda o: o.colour),
    "size": get(lambda o: o.size),
    "place": get(lambda o: o.place),
    "x1": get(lambda o: o.x),
    "y1": get(lambda o: o.y),
    "x2": get(lambda o: o.x) + side,
    "y2": get(lambda o: o.y) + side,
  }


def mask(p, t):
  """[R] bool: the objects with a property."""
  name, *rest = p
  if name == "any":
    return np.ones(len(t["place"]), bool)
  if name == "and":
    return mask(rest[0], t) & mask(rest[1], t)
  if name == "or":
    return mask(rest[0], t) | mask(rest[1], t)
  if name == "touch":
    x = np.minimum(t["x1"], 100 - t["x2"]) == 0
    y = np.minimum(t["y1"], 100 - t["y2"]) == 0
    sides = {"left": t["x1"] == 0, "right": t["x2"] == 100}
    sides |= {"top": t["y1"] == 0, "bottom": t["y2"] == 100}
    return {**sides, "wall": x | y, "corner": x & y}[rest[0]]
  if name == "end":
    same = t["place"][:, None] == t["place"]
    higher = (same & (t["y1"][None] < t["y1"][:, None])).any(axis=1)
    lower = (same & (t["y1"][None] > t["y1"][:, None])).any(axis=1)
    return ~(higher if rest[0] == "top" else lower)
  return t[name] == rest[0]


def compare(count, op, n):
  return {"==": count == n, ">=": count >= n, "<=": count <= n}[op]


def holds(g, t, group):
  """Whether a proposition holds of the objects where `group` is true."""
  name, *rest = g
  if name == "count":
    return compare((mask(rest[0], t) & group).sum(), *rest[1:])
  if name == "more":
    return (mask(rest[0], t) & group).sum() > (mask(rest[1], t) & group).sum()
  if name == "same":
    return len(np.unique(t[rest[0]][mask(rest[1], t) & group])) == 1
  if name == "only":
    own = mask(rest[0], t) & group
    return own.any() and not (own & ~mask(rest[1], t)).any()
  if name == "both":
    return holds(rest[0], t, group) and holds(rest[1], t, group)
  if name == "over":
    upper, lower = mask(rest[0], t), mask(rest[1], t)
    for k in range(3):
      column = [i for i in np.argsort(t["y1"]) if t["place"][i] == k and group[i]]
      if any(upper[a] and lower[b] for a, b in itertools.pairwise(column)):
        return True
    return False
  if name == "boxes":
    count = sum(holds(rest[0], t, group & (t["place"] == k)) for k in range(3))
    return compare(count, *rest[1:])
  raise AssertionError(g)


def evaluate(programme, scene) -> bool:
  t = table(scene)
  return bool(holds(programme, t, np.ones(len(scene.objects), bool)))


def _count(words, objects):
  size, first, second, noun = words
  colours = {first, second} - {""}
  return sum(
    (not size or o.size == SIZE.get(size, size))
    and (not colours or o.colour in colours)
    and (noun in ("item", "object", "block") or o.shape == noun)
    for o in objects
  )


def understand(text, objects) -> bool:
  """Truth of an English sentence of the kinds exists, none, count and compare."""
  text = text.lower()
  nouns = [_count(words, objects) for words in NOUN.findall(text)]
  if re.search(r"\bmore .* than [a-z]+ ?[a-z]* ?[a-z]+s\b", text) and len(nouns) == 2:
    return nouns[0] > nouns[1]
  if re.search(r"\b(fewer|less) .* than [a-z]+", text) and len(nouns) == 2:
    return nouns[0] < nouns[1]
  if re.search(r"\b(no|none)\b", text):
    return nouns[-1] == 0
  found = AMOUNT.search(text)
  if not found:
    return nouns[-1] >= 1
  say, number = found.groups()
  n = int(number) if number.isdigit() else NUMBERS.index(number)
  count = nouns[-1]
  return {
    "exactly": count == n,
    "only": count == n,
    "at least": count >= n,
    "more than": count > n,
    "at most": count <= n,
    "less than": count < n,
    "fewer than": count < n,
  }[say]


def understand_list(text, scene) -> bool:
  """Truth of "(There are | A box has) exactly N nouns, M nouns and K nouns"."""
  said = text.lower().split(" exactly ")[1]
  amount = rf"\b(\d+|{'|'.join(NUMBERS)}) ((?:(?:black|blue|yellow) )?[a-z]+)"
  wanted = []
  for number, noun in re.findall(amount, said):
    n = int(number) if number.isdigit() else NUMBERS.index(number)
    wanted.append((n, NOUN.search(noun).groups(default="")))
  whole = not re.search(r"\b(box|boxes|tower|towers)\b", text.lower())
  groups = [scene.objects] if whole else scene.boxes
  return any(all(_count(words, g) == n for n, words in wanted) for g in groups)
