"""Pixels: signed distances of the shapes, drawn for a whole clip at once.

A shape is a signed distance d(p), below 0 inside, for p in units of its radius. The
coverage of a pixel is clip(1/2 - r d, 0, 1) with r the radius in px: a one-pixel soft
edge. Every thing wears a dark dot off its centre, spinning or not, so that turns are
seen on round shapes and the dot gives no action away.
"""

import numpy as np

from data_pipelines.synthetic import motion

MARK_RADIUS = 0.2
MARKS = {  # centre of the dot in units of the radius; inside the shape
  "circle": (0.5, 0.0),
  "square": (0.4, 0.4),
  "triangle": (0.0, -0.42),
  "star": (0.0, -0.45),
  "cross": (0.6, 0.0),
  "ring": (0.7, 0.0),
  "heart": (0.42, -0.3),
  "crescent": (-0.6, 0.0),
}


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Signed distance to the edge of the unit shape at (x, y), y down; of x's shape."""
  match shape:
    case "circle":
      return np.hypot(x, y) - 0.92
    case "square":
      return np.maximum(np.abs(x), np.abs(y)) - 0.7
    case "triangle":  # three half-planes; a corner up
      return np.maximum(y, 0.8660254 * np.abs(x) - 0.5 * y) - 0.5
    case "star":  # folded into one of ten equal wedges, then one edge
      wedge = np.pi / 5
      turn = np.arctan2(np.abs(x), -y)
      turn = np.abs((turn + wedge) % (2 * wedge) - wedge)
      size = np.hypot(x, y)
      across, along = size * np.sin(turn), size * np.cos(turn)
      tip, dent = np.array((0.0, 1.0)), 0.45 * np.array((np.sin(wedge), np.cos(wedge)))
      edge = dent - tip
      normal = np.array((-edge[1], edge[0])) / np.hypot(*edge)  # points outwards
      return (across - tip[0]) * normal[0] + (along - tip[1]) * normal[1]
    case "cross":
      x, y = np.abs(x), np.abs(y)
      return np.minimum(np.maximum(x - 0.27, y - 0.92), np.maximum(y - 0.27, x - 0.92))
    case "ring":
      return np.abs(np.hypot(x, y) - 0.7) - 0.24
    case "heart":  # two discs that touch, and what lies between their tangents
      x, top, tip = np.abs(x), 0.35, 0.95
      half = 0.46  # radius of the discs, and how far they lie from the middle
      lean = 2 * np.arctan2(half, top + tip)  # of the tangent, from upright
      below = np.cos(lean) * x + np.sin(lean) * (y - tip)
      reach = np.array((np.sin(lean), -np.cos(lean))) * (top + tip)  # tip to tangency
      cut = np.array((-(reach[1] + tip + top), reach[0]))  # downwards from the notch
      above = -(cut[0] * x + cut[1] * (y + top)) / np.hypot(*cut)
      disc = np.hypot(x - half, y + top) - half
      return np.minimum(disc, np.maximum(below, above))
    case "crescent":
      return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.48, y))
  raise ValueError(f"unknown shape {shape!r}; known: {', '.join(MARKS)}")


def coverage(
  shape: str, track: motion.Track, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
  """How much of each pixel the thing and its dot cover, both [T, H, W] in 0..1."""
  column = lambda a: np.asarray(a, np.float32)[:, None, None]
  r = column(track.radius)
  x = (np.arange(width, dtype=np.float32) + 0.5 - column(track.x)) / r  # [T, 1, W]
  y = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - column(track.y)) / r
  cos, sin = column(np.cos(track.angle)), column(np.sin(track.angle))
  x, y = cos * x + sin * y, cos * y - sin * x  # into the thing's own axes
  soft = lambda d: np.clip(0.5 - d * r, 0, 1)
  mark = MARKS[shape]
  body = soft(distance(shape, x, y))
  return body, soft(np.hypot(x - mark[0], y - mark[1]) - MARK_RADIUS) * body


def boxes(body: np.ndarray) -> np.ndarray:
  """[T, 4] x1 y1 x2 y2 in 0..1 around the pixels at least half covered ([T, H, W])."""
  out = []
  for axis in (1, 2):  # columns, rows
    seen = (body >= 0.5).any(axis=axis)
    size = seen.shape[1]
    out.append((seen.argmax(1) / size, 1 - seen[:, ::-1].argmax(1) / size))
  return np.stack([out[0][0], out[1][0], out[0][1], out[1][1]], axis=1)


def paint(
  frames: np.ndarray, shape: str, rgb: np.ndarray, track: motion.Track
) -> np.ndarray:
  """Draws a thing over `frames` [T, H, W, 3] float32, in place. Returns its boxes."""
  body, mark = coverage(shape, track, *frames.shape[1:3])
  rgb = np.asarray(rgb, np.float32)
  ink = rgb * (1 - 0.8 * mark[..., None])  # the dot is the same colour, nearly black
  body = body * np.asarray(track.alpha, np.float32)[:, None, None]
  frames += body[..., None] * (ink - frames)
  return boxes(body / np.asarray(track.alpha, np.float32)[:, None, None])


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """[H, W, 3] float32: greyish, with a texture of low contrast."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  turn, scale = rng.uniform(0, np.pi), rng.uniform(4, 14)
  along = np.cos(turn) * x + np.sin(turn) * y
  across = np.cos(turn) * y - np.sin(turn) * x
  match int(rng.integers(5)):
    case 0:  # stripes
      texture = np.sin(2 * np.pi * along / scale)
    case 1:  # checks
      texture = np.sign(np.sin(np.pi * along / scale) * np.sin(np.pi * across / scale))
    case 2:  # a slope from side to side
      texture = 2 * (along - along.min()) / np.ptp(along) - 1
    case 3:  # blotches: coarse noise, enlarged
      cells = rng.uniform(-1, 1, (height // 6 + 1, width // 6 + 1))
      texture = np.kron(cells, np.ones((6, 6)))[:height, :width]
    case _:  # grain
      texture = rng.uniform(-1, 1, (height, width))
  base = rng.uniform(60, 125) + rng.uniform(-9, 9, 3)
  return (base + rng.uniform(4, 13) * texture[..., None]).astype(np.float32)
