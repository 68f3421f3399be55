"""Statements about scenes as small typed programmes, and their truth.

A programme is a nested tuple. Two types, objects' properties P and propositions G about
a group of objects (the whole picture, or one box):

  P  ("any",)  ("shape", s)  ("colour", c)  ("size", s)
     ("touch", side)    side: wall corner bottom top left right, of the object's box
     ("end", "top" | "base")    the highest or lowest object of its box
     ("and", P, P)  ("or", P, P)
  G  ("count", P, op, n)     the number of P is == n, >= n or <= n
     ("more", P, P)          more of the first than of the second
     ("same", attribute, P)  all P (one at least) agree in shape, colour or size
     ("only", P, Q)          there is a P, and all P are Q
     ("over", P, Q)          some P has a Q next below it in its box (towers)
     ("both", G, G)          both hold, of the same group
     ("boxes", G, op, n)     the number of boxes of which G holds is == n, >= n, <= n

`("boxes", ...)` is about the picture and does not occur inside another "boxes".
"""

import operator

from data_pipelines.synthetic import box_scenes

OPS = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}
SIDES = ("wall", "corner", "bottom", "top", "left", "right")
_ATTRIBUTES = {
  "shape": box_scenes.SHAPES,
  "colour": box_scenes.COLOURS,
  "size": box_scenes.SIZES,
}


def _touches(o) -> dict[str, bool]:
  """Sides of its box that the object touches: no pixel lies between."""
  far = box_scenes.BOX - o.side
  return {"left": o.x <= 0, "right": o.x >= far, "top": o.y <= 0, "bottom": o.y >= far}


def _touch(o, side: str) -> bool:
  at = _touches(o)
  if side == "wall":
    return any(at.values())
  if side == "corner":
    return (at["left"] or at["right"]) and (at["top"] or at["bottom"])
  return at[side]


def holds(p: tuple, o, scene) -> bool:
  """Whether the object `o` of the scene has the property `p`.

  Raises: ValueError if `p` is no property.
  """
  match p:
    case ("any",):
      return True
    case ("shape" | "colour" | "size" as name, value) if value in _ATTRIBUTES[name]:
      return getattr(o, name) == value
    case ("touch", side) if side in SIDES:
      return _touch(o, side)
    case ("end", "top" | "base" as end):
      heights = [other.y for other in scene.objects if other.place == o.place]
      return o.y == (min(heights) if end == "top" else max(heights))
    case ("and", a, b):
      return holds(a, o, scene) and holds(b, o, scene)
    case ("or", a, b):
      return holds(a, o, scene) or holds(b, o, scene)
  raise ValueError(f"{p!r} is no property of an object.")


def _over(scene, group, upper: tuple, lower: tuple) -> bool:
  for o in group:
    below = [u for u in scene.objects if u.place == o.place and u.y > o.y]
    if below and holds(upper, o, scene):
      nearest = min(below, key=lambda u: u.y)
      if holds(lower, nearest, scene):
        return True
  return False


def _about(g: tuple, group, scene) -> bool:
  """Whether the proposition `g` holds of a group of the scene's objects."""

  def those(p):
    return [o for o in group if holds(p, o, scene)]

  match g:
    case ("count", p, op, int(n)) if op in OPS:
      return OPS[op](len(those(p)), n)
    case ("more", a, b):
      return len(those(a)) > len(those(b))
    case ("same", name, p) if name in _ATTRIBUTES:
      return len({getattr(o, name) for o in those(p)}) == 1
    case ("only", p, q):
      found = those(p)
      return bool(found) and all(holds(q, o, scene) for o in found)
    case ("over", a, b):
      return _over(scene, group, a, b)
    case ("both", a, b):
      return _about(a, group, scene) and _about(b, group, scene)
  raise ValueError(f"{g!r} is no proposition about a group of objects.")


def verify(programme: tuple, scene) -> bool:
  """Whether the programme is true of the scene (`box_scenes.Scene`).

  Raises: ValueError naming the part that is not of the grammar above.
  """
  match programme:
    case ("boxes", g, op, int(n)) if op in OPS:
      return OPS[op](sum(_about(g, box, scene) for box in scene.boxes), n)
    case ("both", a, b):
      return verify(a, scene) and verify(b, scene)
  return _about(programme, scene.objects, scene)
