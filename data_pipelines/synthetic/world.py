"""What there is in the generated world, and which combinations each split may show.

A clip has one subject = (shape, colour, action), 8 x 8 x 12 = 768 combinations. With
the names in a seeded order and l = (shape + colour + action) mod 12,

  test  where l mod 4 = 0   192 combinations: of every (shape, colour) 3 actions, of
                            every (shape, action) 2 colours, of every (colour, action)
                            2 shapes
  val   where l = 2         64 combinations
  train all others          512, with every single value and every pair of values

so a held-out clip is new in its combination only, and attributes are as independent in
each split as they can be.
"""

from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
RGB = {  # sRGB 0..255; well apart from each other and from the grey backgrounds
  "red": (222, 36, 36),
  "orange": (250, 140, 20),
  "yellow": (242, 226, 50),
  "green": (40, 175, 60),
  "cyan": (60, 225, 230),
  "blue": (40, 80, 245),
  "purple": (165, 50, 205),
  "white": (246, 246, 246),
}
COLOURS = tuple(RGB)
ACTIONS = (
  "move_left",
  "move_right",
  "rise",
  "fall",
  "grow",
  "shrink",
  "spin_clockwise",
  "spin_counterclockwise",
  "bounce",
  "blink",
  "shake",
  "orbit",
)
MIRROR = {  # equal when the film runs backwards: only the order of frames tells them
  "move_left": "move_right",
  "rise": "fall",
  "grow": "shrink",
  "spin_clockwise": "spin_counterclockwise",
}
MIRROR |= {b: a for a, b in MIRROR.items()}
SPLITS = ("train", "val", "test")
FILES = (*SPLITS, "train_long", "test_long")  # the position is the number in the seed
GALLERY = 100  # test clips of distinct combinations that are ranked against each other


class Combo(NamedTuple):
  """Names of the subject's shape, colour and action."""

  shape: str
  colour: str
  action: str


def combos(seed: int) -> dict[str, list[Combo]]:
  """The combinations of each split, disjoint; their union is all 768."""
  rng = np.random.default_rng((seed, 101))
  place = [rng.permutation(len(names)) for names in (SHAPES, COLOURS, ACTIONS)]
  out: dict[str, list[Combo]] = {split: [] for split in SPLITS}
  for s, shape in enumerate(SHAPES):
    for c, colour in enumerate(COLOURS):
      for a, action in enumerate(ACTIONS):
        cell = (place[0][s] + place[1][c] + place[2][a]) % 12
        split = "test" if cell % 4 == 0 else "val" if cell == 2 else "train"
        out[split].append(Combo(shape, colour, action))
  return out


def spread(pool: list[Combo], rng: np.random.Generator, num: int) -> list[Combo]:
  """`num` distinct members of `pool` in an order whose every prefix is even.

  Greedy: the next one is that whose values, and pairs of values, came least so far.
  """
  sizes = len(SHAPES), len(COLOURS), len(ACTIONS)
  ids = np.array(
    [(SHAPES.index(s), COLOURS.index(c), ACTIONS.index(a)) for s, c, a in pool]
  )
  groups = []  # per kind of group: (its number for each member, how often it came)
  for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2)):
    dims = tuple(sizes[k] for k in axes)
    at = np.ravel_multi_index(tuple(ids[:, k] for k in axes), dims)
    groups.append((at, np.zeros(np.prod(dims)), float(np.prod(dims))))
  free, order = np.ones(len(pool), bool), []
  for _ in range(num):
    cost = sum(seen[at] * weight for at, seen, weight in groups)
    cost = cost + rng.random(len(pool))  # ties are broken by chance
    best = int(np.where(free, cost, np.inf).argmin())
    free[best] = False
    order.append(pool[best])
    for at, seen, _ in groups:
      seen[at[best]] += 1
  return order


def gallery(pool: list[Combo], rng: np.random.Generator) -> list[Combo]:
  """100 distinct members of the test pool, such that every attribute is needed.

  Each colour comes 12 or 13 times. Of its (colour, action) pairs four or five come with
  both of their shapes and three or four with one: there are 64 distinct pairs, so that
  colour and action alone find a clip with probability 64 %, colour alone with 8 %.
  Actions come as evenly as that allows.
  """
  out, seen = [], dict.fromkeys((*ACTIONS, *SHAPES), 0)
  for k, colour in enumerate(rng.permutation(COLOURS)):
    both = 5 if k % 2 else 4
    free = {
      a: [x for x in pool if (x.colour, x.action) == (colour, a)] for a in ACTIONS
    }
    for i in range(8):
      # The action, then the shapes, that came least so far; ties are broken by chance.
      rare = lambda x: seen[x.shape] + rng.random()
      some = {a: sorted(of, key=rare)[: 2 if i < both else 1] for a, of in free.items()}
      cost = {a: (seen[a], sum(map(rare, of))) for a, of in some.items()}
      action = min(cost, key=cost.get)
      for x in some[action]:
        seen[x.shape] += 1
        seen[x.action] += 1
      out += some[action]
      del free[action]
  return [out[i] for i in rng.permutation(len(out))]


def plan(split: str, seed: int, num: int) -> list[Combo]:
  """The subject of each of `num` clips. A longer plan begins with the shorter one.

  Training and validation go through all their combinations again and again, the test
  split through galleries of 100: within a gallery no combination comes twice.
  """
  pool = combos(seed)[split]
  size = GALLERY if split == "test" else len(pool)
  out: list[Combo] = []
  for turn in range(-(-num // size)):
    rng = np.random.default_rng((seed, 102, SPLITS.index(split), turn))
    left = min(size, num - len(out))
    out += gallery(pool, rng)[:left] if split == "test" else spread(pool, rng, left)
  return out
