"""Questions with answers, and captions to choose from, that need the picture.

Answers are even by construction: yes and no half each, and wrong values are drawn so
that the text of a question says nothing on its answer. A set of choices varies one
attribute only, with all five values different; were each wrong choice off in another
attribute, the right one would be the one that has most in common with the others. The
mirrored action is often among the wrong ones, and still every action of a set is the
right one equally often (see `_wrong_actions`).
"""

import numpy as np

from data_pipelines.synthetic import speech, words, world

VALUES = dict(shape=world.SHAPES, colour=world.COLOURS, action=world.ACTIONS)
CHOICES = 5


def _plain(combo: world.Combo) -> str:
  return f"{combo.colour} {combo.shape}"


def _is_it(
  combo: world.Combo, others: list[world.Combo], rng: np.random.Generator
) -> dict:
  """A question for yes or no; a wrong value is half the time a likely mistake.

  That is the value of a distractor, or the mirrored action. Whatever value is asked
  for, yes and no are equally likely: actions with a mirror are mistaken for each other
  only, and so are those without.
  """
  kind = str(rng.choice(list(VALUES)))
  value = truth = getattr(combo, kind)
  yes = bool(rng.random() < 0.5)
  if not yes and kind == "action":
    near = [world.MIRROR[truth]] if truth in world.MIRROR else []
    alike = [v for v in VALUES[kind] if (v in world.MIRROR) == (truth in world.MIRROR)]
    far = [v for v in alike if v not in (truth, *near)]
  else:
    near = [getattr(other, kind) for other in others]
    far = [v for v in VALUES[kind] if v != truth]
  if not yes:
    value = str(rng.choice(near if near and rng.random() < 0.5 else far))
  doing = words.PLAIN[value] if kind == "action" else words.PLAIN[combo.action]
  question = {
    "shape": f"is it {words.article(value)} that is {doing}?",
    "colour": f"is the {combo.shape} {value}?",
    "action": f"is the {_plain(combo)} {doing}?",
  }[kind]
  return {"question": question, "answer": "yes" if yes else "no"}


def answers(
  combo: world.Combo, others: list[world.Combo], rng: np.random.Generator
) -> list[dict]:
  """[{question, answer}]: colour, shape, action, number, and one for yes or no.

  `others` are the distractors; none has the subject's shape or colour, so each question
  has one answer.
  """
  return [
    {"question": f"what colour is the {combo.shape}?", "answer": combo.colour},
    {"question": f"which shape is {combo.colour}?", "answer": combo.shape},
    {
      "question": f"what is the {_plain(combo)} doing?",
      "answer": words.PLAIN[combo.action],
    },
    {
      "question": f"what is {words.PLAIN[combo.action]}?",
      "answer": _plain(combo),
    },
    {
      "question": "how many objects are there?",
      "answer": words.NUMBERS[1 + len(others)],
    },
    _is_it(combo, others, rng),
  ]


def _wrong_actions(truth: str, rng: np.random.Generator) -> list[str]:
  """Four other actions, the mirrored one among them if there is one.

  A set has two mirrored pairs and one action without a mirror (12 such sets with a
  given paired action, 6 with a given single one), or one pair and three single ones (4
  and 12). Drawn with probability 4/5 and 1/5 for a paired truth, 2/5 and 3/5 for a
  single one, each set comes equally often with each of its five as the truth.
  """
  pairs = [(a, world.MIRROR[a]) for a in world.ACTIONS if a in world.MIRROR][::2]
  pairs = [p for p in pairs if truth not in p]
  single = [a for a in world.ACTIONS if a not in world.MIRROR and a != truth]
  pairs = [pairs[k] for k in rng.permutation(len(pairs))]
  single = [single[k] for k in rng.permutation(len(single))]
  draw = rng.random()
  if truth in world.MIRROR:
    return [
      world.MIRROR[truth],
      *([*pairs[0], single[0]] if draw < 0.8 else single[:3]),
    ]
  return [*pairs[0], *(pairs[1] if draw < 0.4 else single[:2])]


def _wrong(
  kind: str, truth: str, others: list[world.Combo], rng: np.random.Generator
) -> list[str]:
  """Four other values, those of the distractors among them."""
  if kind == "action":
    return _wrong_actions(truth, rng)
  near = [getattr(other, kind) for other in others]
  wrong = [str(v) for v in rng.permutation([v for v in VALUES[kind] if v != truth])]
  return sorted(wrong, key=lambda v: v not in near)[: CHOICES - 1]


def choices(
  combo: world.Combo, others: list[world.Combo], rng: np.random.Generator
) -> list[dict]:
  """Three sets, one for each attribute, in a drawn order.

  Returns: [{question, varies, choices [5], answer}] with `answer` the place of the
    true caption among five that differ in the value of `varies` and in nothing else.
  """
  out = []
  for kind in map(str, rng.permutation(list(VALUES))):
    truth = getattr(combo, kind)
    wrong = _wrong(kind, truth, others, rng)
    values = [str(v) for v in rng.permutation([truth, *wrong])]
    form = speech.CAPTIONS[int(rng.integers(len(speech.CAPTIONS)))]
    seed = rng.integers(2**32)  # the same wording of what they share
    texts = [
      words.fill(form, combo._replace(**{kind: value}), np.random.default_rng(seed))
      for value in values
    ]
    out.append(
      {
        "question": "which sentence is true of the video?",
        "varies": kind,
        "choices": texts,
        "answer": values.index(truth),
      }
    )
  return out


def order(steps: list[world.Combo], rng: np.random.Generator) -> list[dict]:
  """[{question, answer}] on the order of the steps of a long video."""
  k = int(rng.integers(len(steps) - 1))
  yes = bool(rng.random() < 0.5)
  pair = (steps[k], steps[k + 1]) if yes else (steps[k + 1], steps[k])
  return [
    {"question": "what comes first?", "answer": _plain(steps[0])},
    {"question": "what comes last?", "answer": _plain(steps[-1])},
    {
      "question": f"what comes after the {_plain(steps[k])}?",
      "answer": _plain(steps[k + 1]),
    },
    {"question": "how many steps are there?", "answer": words.NUMBERS[len(steps)]},
    {
      "question": f"does the {_plain(pair[0])} come before the {_plain(pair[1])}?",
      "answer": "yes" if yes else "no",
    },
  ]


def sequence(steps: list[world.Combo], rng: np.random.Generator) -> dict:
  """A set of five orders of the steps' things, one of them true."""
  truth = tuple(range(len(steps)))
  orders = {truth}
  while len(orders) < CHOICES:
    orders.add(tuple(int(k) for k in rng.permutation(len(steps))))
  listed = [sorted(orders)[k] for k in rng.permutation(CHOICES)]
  return {
    "question": "in which order do they come?",
    "varies": "order",
    "choices": [" , then ".join(f"the {_plain(steps[k])}" for k in o) for o in listed],
    "answer": listed.index(truth),
  }
