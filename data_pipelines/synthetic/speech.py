"""Captions, and narrations as an instructional video has them: loose in time, chatty.

A clip of S seconds has 4 to 6 utterances over [-2, S + 2] s from its beginning, so some
are wholly outside of it. Of these

  1, 2 or 3 (25, 45, 30 %) speak of the clip: the first names shape, colour and action
    in 85 %, the others in 30 %, else one or two of the three; each is meant for a
    moment of the clip and comes up to 2 s too early or too late (the misalignment)
  one in 30 % of the clips is about another thing, before or after this one
  the others are filler

so about nine clips in ten have an utterance that says it all (seven in ten among the
three nearest to the middle of the clip, three in ten the nearest one). Utterances do
not overlap: one that is due while another is being said comes after it. A caption
always says it all.
"""

import numpy as np

from data_pipelines.synthetic import words, world

MISALIGNMENT_S = 2.0
CAPTIONS = (
  "{a_thing} is {doing}",
  "the {thing} {does}",
  "{a_thing} {does} in the picture",
  "there is {a_thing} that {does}",
  "we see {a_thing} {doing}",
  "watch the {thing} {doing}",
  "look how the {thing} {does}",
  "{a_shape} in {colour} is {doing}",
  "here {a_thing} keeps {doing}",
  "you can see how {a_thing} {does}",
  "the {shape} which is {colour} {does}",
  "{doing} , that is what the {thing} does",
)
FULL = (
  "so now the {thing} is {doing}",
  "okay and here you can see {a_thing} {doing}",
  "what we do now is we let the {thing} {do}",
  "you want the {thing} to {do} just like that",
  "and look the {thing} {does} really nicely",
  "we have got {a_thing} and it {does}",
  "i am going to make this {thing} {do}",
  "keep {doing} says the {thing}",
  "as i said the {shape} the {colour} one {does} here",
)
PARTIAL = (
  "so this is our {thing}",
  "i really like this {colour} one",
  "i took {a_thing} for this",
  "it is {doing} now can you see that",
  "and then it {does} again and again",
  "just let it {do} for a while",
  "the {shape} is what we need here",
  "the {shape} {does} as you see",
  "the {colour} one keeps {doing}",
)
OTHER = (
  "before that we had {a_thing} {doing}",
  "next we will look at {a_thing}",
  "later on {a_thing} is going to {do}",
  "you remember the {thing} from last time it {does}",
)
FILLER = (
  "okay so let us see what we have here",
  "all right",
  "and that is pretty much it",
  "do not forget to subscribe",
  "um so yeah",
  "i have been doing this for years",
  "now take your time with this step",
  "you can find all of this in the description",
  "that looks great",
  "let me move a bit closer so you can see",
  "it is really that simple",
  "if you have any questions leave a comment",
  "thank you so much for watching",
  "this is my favourite part",
)


def _some(options: tuple[str, ...], rng: np.random.Generator, num: int) -> list[str]:
  return [options[k] for k in rng.permutation(len(options))[:num]]


def captions(combo: world.Combo, rng: np.random.Generator, num: int = 3) -> list[str]:
  """`num` different sentences that each name shape, colour and action."""
  return [words.fill(form, combo, rng) for form in _some(CAPTIONS, rng, num)]


def _other(combo: world.Combo, rng: np.random.Generator) -> world.Combo:
  """A thing that differs in all three."""
  values = zip(combo, (world.SHAPES, world.COLOURS, world.ACTIONS), strict=True)
  return world.Combo(*(str(rng.choice([x for x in xs if x != v])) for v, xs in values))


def narrations(
  combo: world.Combo,
  rng: np.random.Generator,
  *,
  start: float,
  end: float,
  misalignment_s: float = MISALIGNMENT_S,
) -> list[dict]:
  """[{start, end, text}], s, around the step that lasts from `start` to `end` s."""
  num = int(rng.integers(4, 7))
  about = int(rng.choice((1, 2, 3), p=(0.25, 0.45, 0.3)))
  full = rng.random(about) < np.where(np.arange(about) == 0, 0.85, 0.3)
  said = [
    (FULL if whole else PARTIAL)[int(rng.integers(len(FULL if whole else PARTIAL)))]
    for whole in full
  ]
  said = [words.fill(form, combo, rng) for form in said]
  shift = rng.uniform(-misalignment_s, misalignment_s, about)
  spoken = list(zip(rng.uniform(start, end, about) + shift, said, strict=True))
  first, last = start - misalignment_s, end + misalignment_s
  idle = _some(FILLER, rng, num - about)
  if rng.random() < 0.3 and idle:
    idle[0] = words.fill(_some(OTHER, rng, 1)[0], _other(combo, rng), rng)
  spoken += zip(rng.uniform(first, last, len(idle)), idle, strict=True)
  return in_turn(spoken, first, last)


def in_turn(spoken: list[tuple[float, str]], first: float, last: float) -> list[dict]:
  """Utterances near their wished-for middles (s), one after the other in the span."""
  spoken = sorted(spoken)
  length = np.array([0.25 + 0.22 * len(text.split()) for _, text in spoken])
  length *= min(1.0, 0.95 * (last - first) / length.sum())  # a hasty speaker
  starts, ready = np.array([m for m, _ in spoken]) - length / 2, first
  for k, span in enumerate(length):  # not before the one before is done
    starts[k] = ready = max(starts[k], ready)
    ready += span
  due = last
  for k in range(len(length))[::-1]:  # nor so late that the rest has no room
    starts[k] = due = min(starts[k], due - length[k])
  return [
    {"start": round(float(s), 2), "end": round(float(s + n), 2), "text": text}
    for s, n, (_, text) in zip(starts, length, spoken, strict=True)
  ]
