"""English for programmes: what each kind of statement says, in many wordings.

`draw(rng, kind, scene)` gives (text, programme). Wordings follow the sentences of
NLVR: numerals as words or digits, "item", "object" or "shape", "box" or "tower". The
kinds, by what has to be understood:

  list                         what there is, two to four counts at once: a caption
  exists none count compare    objects of the picture, by shape, colour and size
  edge                         objects that touch a wall or a corner of their box
  box pair boxes every same    quantifiers over the boxes (or towers)
  height end order             towers only: blocks, top and base, what lies upon what

All randomness is a `np.random.RandomState`, whose stream numpy keeps for good.
"""

from typing import NamedTuple

import numpy as np

from data_pipelines.synthetic.box_scenes import COLOURS, SHAPES, SIZES

KINDS = {  # kind: (weight, families it is said of)
  "list": (6, ("scatter", "tower")),
  "exists": (6, ("scatter", "tower")),
  "none": (3, ("scatter", "tower")),
  "count": (6, ("scatter", "tower")),
  "compare": (2, ("scatter", "tower")),
  "edge": (2, ("scatter",)),
  "box": (2, ("scatter", "tower")),
  "pair": (2, ("scatter", "tower")),
  "boxes": (2, ("scatter", "tower")),
  "every": (1, ("scatter", "tower")),
  "same": (1, ("scatter", "tower")),
  "height": (1, ("tower",)),
  "end": (2, ("tower",)),
  "order": (2, ("tower",)),
}
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
_BIG = {"small": ("small", "small", "little"), "medium": ("medium", "medium-sized")}
_BIG["big"] = ("big", "large")
_TOUCHING = {
  "wall": ("the wall", "the edge", "a wall of a box", "the side of a box"),
  "corner": ("the corner", "a corner", "a corner of a box"),
  "bottom": ("the bottom", "the base", "the bottom of a box"),
  "top": ("the top", "the top of a box"),
  "left": ("the left wall", "the left side of a box"),
  "right": ("the right wall", "the right side of a box"),
}
_GENERAL = {"scatter": ("item", "object"), "tower": ("block", "block", "item")}
_LISTED = (("colour",), ("shape",), ("colour", "shape"))
_ANY = ("any",)


class Noun(NamedTuple):
  """A description of objects, in singular and plural, and its property."""

  one: str
  many: str
  means: tuple

  def of(self, n: int) -> str:
    """Singular for one, plural otherwise."""
    return self.one if n == 1 else self.many

  @property
  def a(self) -> str:
    """With its article."""
    return f"{'an' if self.one[0] in 'aeiou' else 'a'} {self.one}"


def _pick(rng, *options):
  return options[rng.randint(len(options))]


def _all(*parts: tuple) -> tuple:
  """The conjunction of properties."""
  parts = [p for p in parts if p != _ANY]
  if not parts:
    return _ANY
  means = parts[0]
  for p in parts[1:]:
    means = ("and", means, p)
  return means


def _noun(rng, family, *, shape="", colours=(), size="", word="") -> Noun:
  noun = shape or word or _pick(rng, *_GENERAL[family])
  colour = tuple(("colour", c) for c in colours)
  means = colour and (colour[0] if len(colour) == 1 else ("or", *colour))
  words = [_pick(rng, *_BIG[size])] if size else []
  words += [" or ".join(colours)] if colours else []
  front = "".join(f"{w} " for w in words)
  means = _all(
    ("size", size) if size else _ANY, means or _ANY, ("shape", shape) if shape else _ANY
  )
  return Noun(f"{front}{noun}", f"{front}{noun}s", means)


def _describe(rng, family, *, plain=False) -> Noun:
  """A noun that says something: of blocks their colour, else one to three attributes.

  plain: also a bare "item" at times, for counting.
  """
  if plain and rng.randint(5) == 0:
    return _noun(rng, family)
  two = rng.randint(8) == 0
  colours = tuple(COLOURS[i] for i in rng.permutation(3)[: 2 if two else 1])
  if family == "tower":
    return _noun(rng, family, colours=colours)
  # Shape and colour, shape, colour, or one of these with a size.
  shape, size = SHAPES[rng.randint(3)], SIZES[rng.randint(3)]
  case = rng.randint(10)
  return _noun(
    rng,
    family,
    shape="" if case in (0, 1, 2, 9) else shape,
    colours=() if case in (3, 4, 8) else colours,
    size=size if case >= 8 else "",
  )


def _amount(rng, *, most=5) -> tuple[str, str, int]:
  """(words, op, n) such as ("more than two", ">=", 3)."""
  n = min(most, 1 + int(rng.choice(5, p=(0.32, 0.3, 0.2, 0.12, 0.06))))
  op = _pick(rng, "==", "==", ">=", "<=")
  say, shown = {
    "==": (_pick(rng, "exactly", "exactly", "only"), n),
    ">=": _pick(
      rng, ("at least", n), ("more than", n - 1) if n > 1 else ("at least", n)
    ),
    "<=": _pick(rng, ("at most", n), ("less than", n + 1), ("fewer than", n + 1)),
  }[op]
  return f"{say} {_number(rng, shown)}", op, n


def _number(rng, n: int) -> str:
  """As a word or in digits; in digits above eight."""
  return _pick(rng, _NUMBERS[n], str(n)) if n < len(_NUMBERS) else str(n)


def _shown(words: str) -> int:
  """The number said last, which decides between singular and plural."""
  last = words.rsplit(" ", 1)[1]
  return int(last) if last.isdigit() else _NUMBERS.index(last)


def _be(n: int) -> str:
  return "is" if n == 1 else "are"


def _where(rng, family) -> str:
  home = "tower" if family == "tower" else "box"
  plural = f"{home}s" if home == "tower" else "boxes"
  return _pick(
    rng, "", "", "", " in the image", " in the picture", f" in one of the {plural}"
  )


def _image(rng) -> str:
  return _pick(rng, "The image", "The picture") + _pick(rng, " has", " contains")


def _list(rng, scene):
  """Counts of the scene itself, so that it comes true of one at all."""
  family = scene.family
  group, end = scene.objects, " in the image"
  if rng.randint(3) == 0:
    group, end = scene.boxes[rng.randint(len(scene.boxes))], ""
  by = ("colour",) if family == "tower" else _pick(rng, *_LISTED)
  found = sorted({tuple(getattr(o, k) for k in by) for o in group})
  word = _pick(rng, *_GENERAL[family])
  parts, means = [], []
  for i in rng.permutation(len(found))[:4]:
    own = dict(zip(by, found[i], strict=True))
    n = sum(all(getattr(o, k) == v for k, v in own.items()) for o in group)
    colours = (own["colour"],) if "colour" in own else ()
    noun = _noun(rng, family, shape=own.get("shape", ""), colours=colours, word=word)
    parts.append(f"{_number(rng, n)} {noun.of(n)}")
    means.append(("count", noun.means, "==", n))
  programme = means[0]
  for part in means[1:]:
    programme = ("both", programme, part)
  said = f"exactly {' and '.join((', '.join(parts[:-1]), parts[-1]))}"
  said = f"exactly {parts[0]}" if len(parts) == 1 else said
  if not end:
    return f"{_a_home(rng, family)} {said}", ("boxes", programme, ">=", 1)
  verb = "is" if said.startswith(("exactly one", "exactly 1 ")) else "are"
  text = _pick(rng, f"There {verb} {said}", f"There {verb} {said}{end}")
  return _pick(rng, text, f"{_image(rng)} {said}"), programme


def _exists(rng, family):
  x = _describe(rng, family)
  where = _where(rng, family)
  text = _pick(
    rng,
    f"There is {x.a}{where}",
    f"There is {x.a}{where}",
    f"There is at least one {x.one}{where}",
    f"There is at least 1 {x.one}{where}",
    f"{_image(rng)} {x.a}",
    f"{_image(rng)} at least one {x.one}",
    f"{x.a} is in the image",
    f"One of the {_noun(rng, family).many} is {x.a}",
  )
  return text, ("count", x.means, ">=", 1)


def _none(rng, family):
  x = _describe(rng, family)
  where = _pick(rng, "", "", " in the image", " in the picture", " in any box")
  text = _pick(
    rng,
    f"There is no {x.one}{where}",
    f"There are no {x.many}{where}",
    f"{_image(rng)} no {x.many}",
    f"No {x.one} is in the image",
    f"None of the {_noun(rng, family).many} is {x.a}",
  )
  return text, ("count", x.means, "==", 0)


def _count(rng, family):
  x = _describe(rng, family, plain=True)
  words, op, n = _amount(rng)
  shown = _shown(words)
  noun = x.of(shown)
  text = _pick(
    rng,
    f"There {_be(shown)} {words} {noun}",
    f"There {_be(shown)} {words} {noun} in the image",
    f"{_image(rng)} {words} {noun}",
    f"{words} {noun} {_be(shown)} in the image",
  )
  return text, ("count", x.means, op, n)


def _compare(rng, family):
  if family == "tower" or rng.randint(2):
    first, second = (COLOURS[i] for i in rng.permutation(3)[:2])
    same = dict(shape="", word=_pick(rng, *_GENERAL[family]))
    if family == "scatter" and rng.randint(3) == 0:
      same["shape"] = SHAPES[rng.randint(3)]
    x, y = (_noun(rng, family, colours=(c,), **same) for c in (first, second))
  else:
    first, second = (SHAPES[i] for i in rng.permutation(3)[:2])
    x, y = (_noun(rng, family, shape=s) for s in (first, second))
  text = _pick(
    rng,
    f"There are more {x.many} than {y.many}",
    f"{_image(rng)} more {x.many} than {y.many}",
    f"There are fewer {y.many} than {x.many}",
    f"There are less {y.many} than {x.many}",
  )
  return text, ("more", x.means, y.means)


def _edge(rng, family):
  x = _describe(rng, family)
  side = _pick(rng, "wall", "wall", "corner", "bottom", "top", "left", "right")
  at = _pick(rng, *_TOUCHING[side])
  means = _all(x.means, ("touch", side))
  if rng.randint(3):
    close = _pick(rng, "", "", "closely ")
    text = _pick(
      rng,
      f"There is {x.a} {close}touching {at}",
      f"There is {x.a} that is {close}touching {at}",
      f"{x.a} touches {at}",
    )
    return text, ("count", means, ">=", 1)
  words, op, n = _amount(rng, most=3)
  shown = _shown(words)
  text = f"There {_be(shown)} {words} {x.of(shown)} touching {at}"
  return text, ("count", means, op, n)


def _home(family) -> tuple[str, str]:
  return ("tower", "towers") if family == "tower" else ("box", "boxes")


def _a_home(rng, family) -> str:
  one, many = _home(family)
  return _pick(
    rng,
    f"There is a {one} with",
    f"There is a {one} which has",
    f"There is at least one {one} with",
    f"One of the {many} has",
    f"One of the {many} contains",
    f"A {one} has",
  )


def _box(rng, family):
  x = _describe(rng, family, plain=True)
  words, op, n = _amount(rng, most=4)
  text = f"{_a_home(rng, family)} {words} {x.of(_shown(words))}"
  return text, ("boxes", ("count", x.means, op, n), ">=", 1)


def _pair(rng, family):
  while True:
    x, y = _describe(rng, family), _describe(rng, family)
    if x.means != y.means:
      break
  text = f"{_a_home(rng, family)} {x.a} and {y.a}"
  each = (("count", x.means, ">=", 1), ("count", y.means, ">=", 1))
  return text, ("boxes", ("both", *each), ">=", 1)


def _boxes(rng, family):
  x = _describe(rng, family)
  one, many = _home(family)
  words, op, n = _amount(rng, most=2)
  shown = _shown(words)
  home = one if shown == 1 else many
  text = _pick(
    rng,
    f"There {_be(shown)} {words} {home} with {x.a}",
    f"{words} {home} {'has' if shown == 1 else 'have'} {x.a}",
    f"{words} {home} {'contains' if shown == 1 else 'contain'} {x.a}",
  )
  return text, ("boxes", ("count", x.means, ">=", 1), op, n)


def _every(rng, family):
  x = _describe(rng, family)
  one, many = _home(family)
  text = _pick(
    rng,
    f"All {many} contain {x.a}",
    f"All the {many} have {x.a}",
    f"Every {one} has {x.a}",
    f"Each {one} contains {x.a}",
    f"There is {x.a} in each {one}",
    f"There is {x.a} in every {one}",
  )
  return text, ("boxes", ("count", x.means, ">=", 1), "==", 3)


def _same(rng, family):
  one, _ = _home(family)
  items = _noun(rng, family).many
  if rng.randint(2):
    x = _noun(rng, family, colours=(COLOURS[rng.randint(3)],))
    colour = x.means[1]
    text = _pick(
      rng,
      f"There is a {one} with only {x.many}",
      f"There is a {one} where all {items} are {colour}",
      f"In one of the {_home(family)[1]} all {items} are {colour}",
    )
    return text, ("boxes", ("only", _ANY, x.means), ">=", 1)
  name = "colour" if family == "tower" else _pick(rng, "colour", "shape", "size")
  spelt = _pick(rng, "colour", "color") if name == "colour" else name
  text = _pick(
    rng,
    f"There is a {one} with all {items} of the same {spelt}",
    f"There is a {one} where all {items} are of the same {spelt}",
    f"All {items} of one {one} have the same {spelt}",
  )
  return text, ("boxes", ("same", name, _ANY), ">=", 1)


def _height(rng, family):
  words, op, n = _amount(rng, most=4)
  noun = _noun(rng, family).of(_shown(words))
  each = ("count", _ANY, op, n)
  if rng.randint(2):
    return f"{_a_home(rng, family)} {words} {noun}", ("boxes", each, ">=", 1)
  many, op, n = _amount(rng, most=2)
  shown = _shown(many)
  home = _home(family)[shown != 1]
  return f"There {_be(shown)} {many} {home} with {words} {noun}", ("boxes", each, op, n)


def _end(rng, family):
  x = _describe(rng, family)
  end = _pick(rng, "top", "base")
  at = _pick(rng, "at the top", "on top") if end == "top" else ""
  at = at or _pick(rng, "at the base", "at the bottom")
  each = ("count", _all(x.means, ("end", end)), ">=", 1)
  if rng.randint(2):
    return f"{_a_home(rng, family)} {x.a} {at}", ("boxes", each, ">=", 1)
  words, op, n = _amount(rng, most=2)
  shown = _shown(words)
  home = _home(family)[shown != 1]
  text = _pick(
    rng,
    f"There {_be(shown)} {words} {home} with {x.a} {at}",
    f"{words} {home} {'has' if shown == 1 else 'have'} {x.a} {at}",
  )
  return text, ("boxes", each, op, n)


def _order(rng, family):
  x, y = _describe(rng, family), _describe(rng, family)
  text = _pick(
    rng,
    f"There is {x.a} {_pick(rng, 'directly above', 'right above')} {y.a}",
    f"There is {x.a} {_pick(rng, 'on', 'on top of', 'directly over')} {y.a}",
    f"There is {y.a} {_pick(rng, 'directly under', 'directly below')} {x.a}",
  )
  return text, ("over", x.means, y.means)


_DRAW = {
  "exists": _exists,
  "none": _none,
  "count": _count,
  "compare": _compare,
  "edge": _edge,
  "box": _box,
  "pair": _pair,
  "boxes": _boxes,
  "every": _every,
  "same": _same,
  "height": _height,
  "end": _end,
  "order": _order,
}


def draw(rng: np.random.RandomState, kind: str, scene) -> tuple[str, tuple]:
  """(text, programme) of a statement that can be said of scenes of this family.

  Only "list" looks at more of the `box_scenes.Scene` than its family; it is true of it.
  Raises: KeyError on an unknown kind, ValueError if it is not said of the family.
  """
  family = scene.family
  if family not in KINDS[kind][1]:
    raise ValueError(f"kind {kind!r} is said of {KINDS[kind][1]}, not of {family!r}.")
  text, programme = _list(rng, scene) if kind == "list" else _DRAW[kind](rng, family)
  lower = rng.randint(3) == 0
  text = text[0].lower() + text[1:] if lower else text[0].upper() + text[1:]
  return text + _pick(rng, ".", ".", ""), programme
