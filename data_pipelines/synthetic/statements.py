"""Statements about given scenes, checked by programmes, that text alone cannot judge.

Each drawn sentence is said of two scenes of one family: one of which its programme is
true and one of which it is false. So within a text, a wording or a kind exactly half of
the rows match, and a model without sight is right half of the time. Among the scenes
tried, those with most false rows so far are taken for the true row and the other way
round, so that pictures alone tell little either.

Texts are parted for good: `fold_of(text) == 0` is for testing only. The kinds are those
of `phrases.KINDS`; the share of a kind among the rows is its weight there.
"""

import re
import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.synthetic import phrases, programmes
from data_pipelines.synthetic.box_scenes import FAMILIES, NUM_BOXES, Scene

FOLDS = 5  # of texts; fold 0 is for testing
_TRIES, _ROUNDS = 12, 8  # scenes looked at together, and how often, for a text
_DRAWS = 1000  # texts given up before a kind is


class Row(NamedTuple):
  """A statement about a scene. `match`: whether the programme is true of it."""

  text: str
  programme: tuple
  kind: str
  scene: Scene
  match: bool


def normal(text: str) -> str:
  """The text without case, final period and double blanks: what makes two equal."""
  return re.sub(r"\s+", " ", text.casefold()).strip(" .")


def fold_of(text: str) -> int:
  """0 to 4: crc32 of the normalised text modulo five."""
  return zlib.crc32(normal(text).encode()) % FOLDS


class _Pool:
  """Scenes of one family, and how many more true than false rows each has so far."""

  def __init__(self, rng, scenes):
    self.rng, self.scenes = rng, scenes
    self.surplus = np.zeros(len(scenes), np.int64)

  def needy(self) -> int:
    """A scene with more false rows than most."""
    tried = self.rng.randint(len(self.scenes), size=_TRIES)
    return int(tried[self.surplus[tried].argmin()])

  def pair(self, programme, first: int) -> tuple[int, int] | None:
    """(scene of which it is true, scene of which it is false), or None.

    Scene `first` and then others in a drawn order are looked at until both are found.
    """
    order = self.rng.permutation(len(self.scenes))
    order = [first, *(i for i in order[: _TRIES * _ROUNDS - 1] if i != first)]
    seen, truth = [], []
    for i in order:
      seen.append(i)
      truth.append(programmes.verify(programme, self.scenes[i]))
      if len(seen) % _TRIES == 0 and 0 < sum(truth) < len(truth):
        break
    seen, truth = np.array(seen), np.array(truth)
    if truth.all() or not truth.any():
      return None
    true, false = seen[truth], seen[~truth]
    true = int(true[self.surplus[true].argmin()])
    false = int(false[self.surplus[false].argmax()])
    self.surplus[true] += 1
    self.surplus[false] -= 1
    return true, false


def generate(
  scenes: Sequence[Scene],
  num: int,
  *,
  seed: int,
  test: bool = False,
  avoid: Collection[str] = (),
) -> list[Row]:
  """Statements about the scenes, half of them true; row 2k and 2k + 1 share a text.

  Args:
    scenes: of one or both families. Each row has its boxes in a drawn order.
    num: of rows; even.
    seed: everything follows from it, the scenes and the arguments.
    test: only texts of fold 0; otherwise only the others.
    avoid: normalised texts that must not come up.
  Raises: ValueError if `num` is odd, or no kind of statement is both true of one scene
    and false of another (too few scenes).
  """
  if num % 2 or num < 0:
    raise ValueError(f"num is {num}; statements come in pairs of one text.")
  rng = np.random.RandomState(seed)
  pools = {
    family: _Pool(rng, [s for s in scenes if s.family == family]) for family in FAMILIES
  }
  weights = {
    (kind, family): weight / len(families)
    for kind, (weight, families) in phrases.KINDS.items()
    for family in families
    if len(pools[family].scenes) > 1
  }
  rows, avoid = [], frozenset(avoid)
  while len(rows) < num:
    if not weights:
      raise ValueError(f"{len(scenes)} scenes are too few or too alike for statements.")
    places = list(weights)
    p = np.array([weights[k] for k in places], np.float64)
    kind, family = places[rng.choice(len(places), p=p / p.sum())]
    found = _draw_pair(rng, kind, pools[family], test, avoid)
    if found is None:
      del weights[kind, family]  # these scenes are too alike for this kind
      continue
    text, programme, pair = found
    for scene, match in zip(pair, (True, False), strict=True):
      moved = pools[family].scenes[scene].reordered(rng.permutation(NUM_BOXES))
      rows.append(Row(text, programme, kind, moved, match))
  return rows


def _draw_pair(rng, kind, pool, test, avoid):
  for _ in range(_DRAWS):
    first = pool.needy()
    text, programme = phrases.draw(rng, kind, pool.scenes[first])
    if (fold_of(text) == 0) != test or normal(text) in avoid:
      continue
    pair = pool.pair(programme, first)
    if pair is not None:
      return text, programme, pair
  return None


def mix(rows: Sequence[Row]) -> dict[str, int]:
  """Number of rows of each kind, and under "texts" that of distinct sentences."""
  count = {kind: 0 for kind in phrases.KINDS}
  for row in rows:
    count[row.kind] += 1
  return {**count, "texts": len({normal(row.text) for row in rows})}
