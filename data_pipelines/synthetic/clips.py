"""One example: its draw, its pixels and sound, its row of the jsonl file.

All of it is a function of (seed, file, index) and the settings: no clip depends on any
other, on the number of clips or on the process that makes it.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.synthetic import (
  motion,
  questions,
  render,
  sound,
  speech,
  words,
  world,
)

RATES_HZ = (10.0, 12.0, 12.5, 15.0)
ASPECTS = ((1.0, 1.0), (1.125, 1.0), (1.0, 1.125), (1.25, 1.0), (1.0, 1.25))


@dataclasses.dataclass(frozen=True)
class Settings:
  """What all clips of a corpus share.

  Fields: `seconds` of a clip (of a step of a long video: 0.75 to 1 of that), `size` in
  px of the shorter side, `vary` the rate and the aspect (otherwise 12 Hz, square),
  `audio` whether there is sound, at 16 kHz, `misalignment_s` by how much what is said
  of a clip comes too early or too late, at most.
  """

  seed: int = 0
  seconds: float = 4.0
  size: int = 64
  vary: bool = True
  audio: bool = True
  audio_rate_hz: int = 16_000
  misalignment_s: float = speech.MISALIGNMENT_S


@dataclasses.dataclass(frozen=True)
class Example:
  """`frames` [T, H, W, 3] uint8, `pcm` [S] int16 or None, `row` for the jsonl file."""

  frames: np.ndarray
  pcm: np.ndarray | None
  row: Mapping


def _colour(name: str, rng: np.random.Generator) -> np.ndarray:
  """The named colour, a little off: [3] float in 0..255."""
  return np.clip(np.array(world.RGB[name]) + rng.uniform(-12, 12, 3), 0, 255)


def _others(combo: world.Combo, rng: np.random.Generator) -> list[world.Combo]:
  """None, one or two distractors (30, 45, 25 %), no two alike in shape or colour."""
  num = int(rng.choice(3, p=(0.3, 0.45, 0.25)))
  shapes = rng.permutation([s for s in world.SHAPES if s != combo.shape])
  colours = rng.permutation([c for c in world.COLOURS if c != combo.colour])
  acts = rng.choice(("still", "drift"), num)
  return [
    world.Combo(str(shapes[k]), str(colours[k]), str(acts[k])) for k in range(num)
  ]


def _place(
  combo: world.Combo,
  rng: np.random.Generator,
  size: tuple[int, int],
  taken: list[motion.Motion],
) -> motion.Motion:
  """A distractor's motion, of eight that which is farthest from what is there."""
  radius = min(size) * 0.5 * rng.uniform(0.22, 0.48)
  tries = [motion.draw(combo.action, rng, *size, radius=radius) for _ in range(8)]

  def gap(m: motion.Motion) -> float:
    return min(
      np.hypot(max(abs(m.x - o.x) - o.reach_x, 0), max(abs(m.y - o.y) - o.reach_y, 0))
      - o.radius
      for o in taken
    )

  return max(tries, key=gap)


def scene(
  combo: world.Combo,
  rng: np.random.Generator,
  backdrop: np.ndarray,
  settings: Settings,
  *,
  duration_s: float,
  rate_hz: float,
) -> tuple[np.ndarray, np.ndarray | None, list[dict]]:
  """One subject at its action among distractors.

  Returns: frames [T, H, W, 3] uint8, pcm [S] int16 or None, and the objects (subject
    first) with their boxes [T, 4]. The subject is drawn last: nothing hides it.
  """
  height, width = backdrop.shape[:2]
  radius = min(height, width) * 0.5 * rng.uniform(0.30, 0.45)
  moving = motion.draw(combo.action, rng, width, height, radius=radius)
  things, taken = [(combo, moving, "subject")], [moving]
  for other in _others(combo, rng):
    taken.append(_place(other, rng, (width, height), taken))
    things.append((other, taken[-1], "distractor"))
  num = round(duration_s * rate_hz)
  u = (np.arange(num) - (num - 1) / 2) / rate_hz
  frames = np.repeat(backdrop[None], num, axis=0)
  objects = []
  for thing, moves, role in things[::-1]:
    track = motion.track(moves, u)
    if role == "distractor" and rng.random() < 0.15:  # faint is not always blinking
      track = track._replace(alpha=np.full(num, motion.DIM))
    box = render.paint(frames, thing.shape, _colour(thing.colour, rng), track)
    objects.insert(0, thing._asdict() | {"role": role, "boxes": box})
  pcm = None
  if settings.audio:
    pcm = sound.tone(
      combo, moving, rng, duration_s=duration_s, rate_hz=settings.audio_rate_hz
    )
  return np.clip(frames + 0.5, 0, 255).astype(np.uint8), pcm, objects


def _canvas(rng: np.random.Generator, settings: Settings) -> tuple[np.ndarray, float]:
  """A background [H, W, 3] of even sides, and a frame rate in Hz."""
  aspect = ASPECTS[int(rng.integers(len(ASPECTS)))] if settings.vary else (1.0, 1.0)
  rate_hz = float(rng.choice(RATES_HZ)) if settings.vary else 12.0
  height, width = (2 * round(settings.size * a / 2) for a in aspect)
  return render.background(rng, height, width), rate_hz


def _row(
  file: str,
  index: int,
  subject: world.Combo,
  frames: np.ndarray,
  rate_hz: float,
  fields: dict,
) -> dict:
  name = f"{file}_{index:06d}"
  return {
    "clip_id": name,
    "split": file,
    "video": f"videos/{file}/{name}.mp4",
    "duration_s": round(len(frames) / rate_hz, 4),
    "rate_hz": rate_hz,
    "width": frames.shape[2],
    "height": frames.shape[1],
    **subject._asdict(),
    **fields,
    "tags": {"verb": subject.action, "noun": subject.shape},
  }


def _listed(boxes: np.ndarray) -> list[list[float]]:
  return [[round(float(v), 4) for v in box] for box in boxes]


def clip(file: str, index: int, combo: world.Combo, settings: Settings) -> Example:
  """Clip `index` of the split `file`, of one subject and one step."""
  rng = np.random.default_rng((settings.seed, world.FILES.index(file), index))
  backdrop, rate_hz = _canvas(rng, settings)
  duration_s = round(settings.seconds * rate_hz) / rate_hz
  frames, pcm, objects = scene(
    combo, rng, backdrop, settings, duration_s=duration_s, rate_hz=rate_hz
  )
  others = [world.Combo(o["shape"], o["colour"], o["action"]) for o in objects[1:]]
  fields = {
    "captions": speech.captions(combo, rng),
    "narrations": speech.narrations(
      combo, rng, start=0.0, end=duration_s, misalignment_s=settings.misalignment_s
    ),
    "steps": [{"start": 0.0, "end": duration_s, **combo._asdict()}],
    "objects": [o | {"boxes": _listed(o["boxes"])} for o in objects],
    "qa": questions.answers(combo, others, rng),
    "choices": questions.choices(combo, others, rng),
  }
  if file == "test":
    fields["gallery"] = index // world.GALLERY
  return Example(frames, pcm, _row(file, index, combo, frames, rate_hz, fields))


def long(file: str, index: int, pool: list[world.Combo], settings: Settings) -> Example:
  """Long video `index`: three to five steps, each with its own subject from `pool`.

  The row's own shape, colour, action and tags are those of the first step; an object
  has a box of None in frames of the other steps.
  """
  rng = np.random.default_rng((settings.seed, world.FILES.index(file), index))
  backdrop, rate_hz = _canvas(rng, settings)
  picked: list[world.Combo] = []
  for k in rng.permutation(len(pool)):  # no shape, colour or action comes twice
    if all(a != b for p in picked for a, b in zip(p, pool[k], strict=True)):
      picked.append(pool[k])
  picked = picked[: int(rng.integers(3, 6))]
  parts, spoken, steps, start = [], [], [], 0.0
  for combo in picked:
    frames_wanted = round(settings.seconds * rng.uniform(0.75, 1.0) * rate_hz / 2) * 2
    duration_s = frames_wanted / rate_hz
    end = round(start + duration_s, 4)
    parts.append(
      scene(combo, rng, backdrop, settings, duration_s=duration_s, rate_hz=rate_hz)
    )
    spoken += [
      ((n["start"] + n["end"]) / 2, n["text"])
      for n in speech.narrations(
        combo, rng, start=start, end=end, misalignment_s=settings.misalignment_s
      )
    ]
    steps.append({"start": start, "end": end, **combo._asdict()})
    start = end
  frames = np.concatenate([p[0] for p in parts])
  pcm = np.concatenate([p[1] for p in parts]) if settings.audio else None
  objects, begun = [], 0
  for part in parts:
    here = len(part[0])
    before, after = [None] * begun, [None] * (len(frames) - begun - here)
    for o in part[2]:
      objects.append(o | {"boxes": before + _listed(o["boxes"]) + after})
    begun += here
  fields = {
    "captions": [_story(picked, rng) for _ in range(3)],
    "narrations": speech.in_turn(
      spoken, -settings.misalignment_s, start + settings.misalignment_s
    ),
    "steps": steps,
    "objects": objects,
    "qa": questions.order(picked, rng),
    "choices": [questions.sequence(picked, rng)],
  }
  return Example(frames, pcm, _row(file, index, picked[0], frames, rate_hz, fields))


def _story(steps: list[world.Combo], rng: np.random.Generator) -> str:
  """One sentence on all steps, in order."""
  told = [words.fill(speech.CAPTIONS[int(rng.integers(2))], s, rng) for s in steps]
  return " , ".join(
    f"{'first' if k == 0 else 'then' if k < len(told) - 1 else 'and finally'} {text}"
    for k, text in enumerate(told)
  )
