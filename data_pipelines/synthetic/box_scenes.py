"""Scenes of coloured shapes in three boxes, in the manner of NLVR's pictures.

A picture is 400 x 100 pixels: three boxes of 100 x 100 at x = 0, 150 and 300. Scenes
are of two families, told apart by `Scene.family`:

  scatter  1 to 8 circles, squares and triangles of 10, 20 or 30 pixels in each box
  tower    1 to 4 squares of 20 pixels in each box, one upon the other, a pixel between

`readers.nlvr` reads the real ones; `random_scene` draws new ones, for examples that
need no file.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 400, 100  # pixels of the picture
BOX, STEP, NUM_BOXES = 100, 150, 3  # side of a box, from one box to the next
SHAPES = ("circle", "square", "triangle")
COLOURS = ("black", "blue", "yellow")
SIZES = ("small", "medium", "big")
PIXELS = dict(zip(SIZES, (10, 20, 30), strict=True))  # side of an object
FAMILIES = ("scatter", "tower")
_TOWER_X, _TOWER_PITCH = 40, 21  # left edge of a tower; from one block to the next


class Object(NamedTuple):
  """One object. `x`, `y`: upper left corner in pixels from that of its box `place`."""

  shape: str
  colour: str
  size: str
  place: int
  x: int
  y: int

  @property
  def side(self) -> int:
    """Width and height in pixels."""
    return PIXELS[self.size]

  @property
  def box(self) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 in pixels of the whole picture."""
    left = STEP * self.place + self.x
    return left, self.y, left + self.side, self.y + self.side


class Scene(NamedTuple):
  """A picture: its name and its objects, in no particular order."""

  name: str
  objects: tuple[Object, ...]

  @property
  def family(self) -> str:
    """ "tower" if all objects are medium squares in one column of each box."""
    tower = all(
      o[:3:2] == ("square", "medium") and o.x == _TOWER_X for o in self.objects
    )
    return "tower" if tower else "scatter"

  @property
  def boxes(self) -> tuple[tuple[Object, ...], ...]:
    """The objects of each of the three boxes."""
    return tuple(
      tuple(o for o in self.objects if o.place == k) for k in range(NUM_BOXES)
    )

  @property
  def contents(self) -> tuple:
    """What the scene shows, whatever its name and the order of boxes and objects."""
    return tuple(
      sorted(tuple(sorted(o._replace(place=0) for o in box)) for box in self.boxes)
    )

  def reordered(self, order: Sequence[int]) -> "Scene":
    """The scene with box k moved to place order[k]; NLVR publishes all six orders."""
    moved = (o._replace(place=int(order[o.place])) for o in self.objects)
    return self._replace(objects=tuple(moved))


def _scatter(rng, place: int) -> list[Object]:
  objects = []
  for _ in range(rng.randint(1, 9)):
    shape, colour, size = (v[rng.randint(3)] for v in (SHAPES, COLOURS, SIZES))
    side = PIXELS[size]
    for _ in range(50):  # a place that is still free; a crowded box gets fewer objects
      x, y = (int(v) for v in rng.randint(0, BOX - side + 1, size=2))
      # A share of NLVR's objects lies exactly at a wall.
      wall = rng.randint(8)
      x = {0: 0, 1: BOX - side}.get(wall, x)
      y = {2: 0, 3: BOX - side}.get(wall, y)
      gap = [
        max(o.x - x - side, x - o.x - o.side, o.y - y - side, y - o.y - o.side)
        for o in objects
      ]
      if min(gap, default=1) > 0:
        objects.append(Object(shape, colour, size, place, x, y))
        break
  return objects


def _tower(rng, place: int) -> list[Object]:
  first = BOX - PIXELS["medium"]
  return [
    Object(
      "square",
      COLOURS[rng.randint(3)],
      "medium",
      place,
      _TOWER_X,
      first - level * _TOWER_PITCH,
    )
    for level in range(rng.randint(1, 5))
  ]


def random_scene(rng: np.random.RandomState, name: str, family: str) -> Scene:
  """A scene with 1 to 8 (scatter) or 1 to 4 (tower) objects in each box."""
  make = {"scatter": _scatter, "tower": _tower}[family]
  return Scene(name, tuple(o for k in range(NUM_BOXES) for o in make(rng, k)))
