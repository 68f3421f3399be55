"""How things move: action and time to place, size, angle and opacity.

Every action is a path over cycles, c(u) = phase + sign * u / period, where u is the
time from the middle of the clip in seconds. A mirrored pair (`world.MIRROR`) is one
path with the two signs, so that one film, run backwards, is the other. Phase, period,
place, size and tilt are drawn for each clip, whatever the action: at any one moment
the picture of a rising star may be that of a falling one.

Lengths are in pixels, y points down, angles are in radians clockwise on the screen.
"""

from typing import NamedTuple

import numpy as np

# action: (path, sign; 0 = drawn, period in s from, to)
PATHS = {
  "move_left": ("slide_x", 1, 2.4, 3.4),
  "move_right": ("slide_x", -1, 2.4, 3.4),
  "rise": ("slide_y", 1, 2.4, 3.4),
  "fall": ("slide_y", -1, 2.4, 3.4),
  "grow": ("scale", 1, 2.0, 3.0),
  "shrink": ("scale", -1, 2.0, 3.0),
  "spin_clockwise": ("turn", 1, 2.4, 3.6),
  "spin_counterclockwise": ("turn", -1, 2.4, 3.6),
  "bounce": ("bounce", 0, 0.9, 1.3),
  "blink": ("blink", 0, 0.8, 1.2),
  "shake": ("shake", 0, 0.55, 0.8),
  "orbit": ("orbit", 0, 1.8, 2.6),
  "still": ("still", 0, 4.0, 8.0),  # the last two are of distractors only
  "drift": ("drift", 0, 7.0, 10.0),
}
DIM = 0.1  # opacity of a blinking thing while it is off: its box stays a true one


class Motion(NamedTuple):
  """Drawn numbers of one thing; px, s, radians."""

  path: str
  sign: int
  period: float
  phase: float
  x: float  # centre of the path
  y: float
  reach_x: float  # half its extent
  reach_y: float
  radius: float
  tilt: float

  def cycles(self, u: np.ndarray) -> np.ndarray:
    """Cycles done at `u` seconds from the middle; the whole part counts repeats."""
    return self.phase + self.sign * u / self.period


class Track(NamedTuple):
  """Poses, each [T] float: centre and radius in px, angle in radians, opacity 0..1."""

  x: np.ndarray
  y: np.ndarray
  radius: np.ndarray
  angle: np.ndarray
  alpha: np.ndarray


def draw(
  action: str, rng: np.random.Generator, width: int, height: int, *, radius: float
) -> Motion:
  """A motion that keeps a thing of `radius` px wholly inside the frame."""
  path, sign, low, high = PATHS[action]
  sign = sign or int(rng.choice((-1, 1)))
  side, amount = min(width, height), rng.random()
  room_x, room_y = (width - 2 * radius) / 2, (height - 2 * radius) / 2
  swing = min((0.09 + 0.05 * amount) * side, 0.8 * room_x, 0.8 * room_y)
  reach = {
    "slide_x": ((0.85 + 0.15 * amount) * room_x, 0.0),
    "slide_y": (0.0, (0.85 + 0.15 * amount) * room_y),
    "bounce": (0.0, min((0.17 + 0.08 * amount) * side, room_y)),
    "shake": (swing, 0.0),
    "orbit": (min(1.6 * swing, room_x), min(1.6 * swing, room_y)),
    "drift": (0.8 * swing, 0.4 * swing),
  }
  reach_x, reach_y = reach.get(path, (0.0, 0.0))
  place = rng.uniform(-1, 1, 2)
  return Motion(
    path=path,
    sign=sign,
    period=rng.uniform(low, high),
    phase=rng.random(),
    x=width / 2 + place[0] * (room_x - reach_x),
    y=height / 2 + place[1] * (room_y - reach_y),
    reach_x=reach_x,
    reach_y=reach_y,
    radius=radius,
    tilt=rng.uniform(0, 2 * np.pi),
  )


def track(motion: Motion, u: np.ndarray) -> Track:
  """Poses at `u` [T] seconds from the middle of the clip."""
  c = motion.cycles(u)
  part, wave = c - np.floor(c), 2 * np.pi * c
  x, y = np.full(len(u), motion.x), np.full(len(u), motion.y)
  radius, angle = np.full(len(u), motion.radius), np.full(len(u), motion.tilt)
  alpha = np.ones(len(u))
  match motion.path:
    case "slide_x":  # from right to left, then it starts again at the right
      x = x + motion.reach_x * (1 - 2 * part)
    case "slide_y":
      y = y + motion.reach_y * (1 - 2 * part)
    case "scale":
      radius = radius * (0.4 + 0.6 * part)
    case "turn":
      angle = angle + wave
    case "bounce":
      y = y + motion.reach_y * (1 - 2 * np.abs(np.sin(np.pi * c)))
    case "blink":
      alpha = np.where(part < 0.6, 1.0, DIM)
    case "shake":
      x = x + motion.reach_x * np.sin(wave)
    case "orbit":
      x, y = x + motion.reach_x * np.cos(wave), y + motion.reach_y * np.sin(wave)
    case "drift":
      x, y = x + motion.reach_x * np.sin(wave), y + motion.reach_y * np.cos(wave)
  return Track(x, y, radius, angle, alpha)
