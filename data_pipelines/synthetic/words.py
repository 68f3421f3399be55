"""The bounded language of the corpus: a few words for every value, all lower case.

The first wording of each value comes about half of the time, the others share the rest,
so all of them are heard in training.
"""

import numpy as np

from data_pipelines.synthetic import world

SHAPES = {
  "circle": ("circle", "disc"),
  "square": ("square", "box"),
  "triangle": ("triangle", "wedge"),
  "star": ("star",),
  "cross": ("cross", "plus sign"),
  "ring": ("ring", "hoop"),
  "heart": ("heart",),
  "crescent": ("crescent", "moon"),
}
COLOURS = {
  "red": ("red", "scarlet"),
  "orange": ("orange",),
  "yellow": ("yellow", "golden"),
  "green": ("green", "emerald"),
  "cyan": ("cyan", "turquoise"),
  "blue": ("blue",),
  "purple": ("purple", "violet"),
  "white": ("white", "snowy"),
}
ACTIONS = {  # base form, third person, -ing form
  "move_left": (
    ("move left", "moves left", "moving left"),
    ("slide to the left", "slides to the left", "sliding to the left"),
    ("head left", "heads left", "heading left"),
  ),
  "move_right": (
    ("move right", "moves right", "moving right"),
    ("slide to the right", "slides to the right", "sliding to the right"),
    ("head right", "heads right", "heading right"),
  ),
  "rise": (
    ("rise", "rises", "rising"),
    ("go up", "goes up", "going up"),
    ("climb upwards", "climbs upwards", "climbing upwards"),
  ),
  "fall": (
    ("fall", "falls", "falling"),
    ("go down", "goes down", "going down"),
    ("sink downwards", "sinks downwards", "sinking downwards"),
  ),
  "grow": (
    ("grow", "grows", "growing"),
    ("get bigger", "gets bigger", "getting bigger"),
    ("swell", "swells", "swelling"),
  ),
  "shrink": (
    ("shrink", "shrinks", "shrinking"),
    ("get smaller", "gets smaller", "getting smaller"),
    ("dwindle", "dwindles", "dwindling"),
  ),
  "spin_clockwise": (
    ("spin clockwise", "spins clockwise", "spinning clockwise"),
    ("turn clockwise", "turns clockwise", "turning clockwise"),
    ("rotate clockwise", "rotates clockwise", "rotating clockwise"),
  ),
  "spin_counterclockwise": (
    ("spin counterclockwise", "spins counterclockwise", "spinning counterclockwise"),
    ("turn counterclockwise", "turns counterclockwise", "turning counterclockwise"),
    ("rotate anticlockwise", "rotates anticlockwise", "rotating anticlockwise"),
  ),
  "bounce": (
    ("bounce", "bounces", "bouncing"),
    ("hop up and down", "hops up and down", "hopping up and down"),
    ("jump like a ball", "jumps like a ball", "jumping like a ball"),
  ),
  "blink": (
    ("blink", "blinks", "blinking"),
    ("flash on and off", "flashes on and off", "flashing on and off"),
    ("flicker", "flickers", "flickering"),
  ),
  "shake": (
    ("shake", "shakes", "shaking"),
    ("tremble", "trembles", "trembling"),
    ("wobble from side to side", "wobbles from side to side", "wobbling side to side"),
  ),
  "orbit": (
    ("go round and round", "goes round and round", "going round and round"),
    ("orbit", "orbits", "orbiting"),
    ("travel in a loop", "travels in a loop", "travelling in a loop"),
  ),
}
PLAIN = {name: forms[0][2] for name, forms in ACTIONS.items()}  # as in answers
NUMBERS = ("zero", "one", "two", "three", "four", "five")


def pick(options: tuple, rng: np.random.Generator):
  """The first option half of the time, else any (the first again included).

  Always two draws, so that what is drawn later does not depend on the options.
  """
  stay, place = rng.random(2)
  return options[0 if stay < 0.5 else int(place * len(options))]


def article(phrase: str) -> str:
  """The phrase after "a" or "an"."""
  return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def fill(template: str, combo: world.Combo, rng: np.random.Generator) -> str:
  """The template with one wording of each value, as drawn.

  Fields: {shape}, {colour}, {thing} = "red star", {a_thing} = "a red star", {a_shape},
  {do}, {does}, {doing}.
  """
  shape = pick(SHAPES[combo.shape], rng)
  colour = pick(COLOURS[combo.colour], rng)
  do, does, doing = pick(ACTIONS[combo.action], rng)
  thing = f"{colour} {shape}"
  return template.format(
    shape=shape,
    colour=colour,
    thing=thing,
    a_thing=article(thing),
    a_shape=article(shape),
    do=do,
    does=does,
    doing=doing,
  )
