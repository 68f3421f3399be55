"""Programmes and wordings against oracles; balance, parting and repetition of rows."""

import collections

import numpy as np
import pytest

from data_pipelines.synthetic import box_scenes, phrases, programmes, statements
from tests.reference import statements as reference

OBJECTS = [  # shape, colour, size, place, x, y
  ("circle", "blue", "small", 0, 0, 50),
  ("square", "yellow", "big", 0, 40, 70),
  ("square", "yellow", "medium", 1, 80, 0),
  ("triangle", "yellow", "small", 1, 30, 30),
  ("circle", "black", "big", 2, 10, 10),
]
SCENE = box_scenes.Scene("hand", tuple(box_scenes.Object(*o) for o in OBJECTS))
TOWERS = box_scenes.Scene(
  "towers",
  tuple(
    box_scenes.Object("square", colour, "medium", place, 40, 80 - 21 * level)
    for place, tower in enumerate((("blue", "black"), ("blue",), ("black", "yellow")))
    for level, colour in enumerate(tower)
  ),
)
ANY, YELLOW, BLUE, BLACK = (
  ("any",),
  *(("colour", c) for c in ("yellow", "blue", "black")),
)


def pictures(num, seed=0):
  rng = np.random.RandomState(seed)
  families = box_scenes.FAMILIES
  return [
    box_scenes.random_scene(rng, f"s{seed}-{i}", families[i % 2]) for i in range(num)
  ]


@pytest.fixture(scope="module")
def train():
  return statements.generate(pictures(80), 600, seed=3)


@pytest.mark.parametrize(
  ("programme", "scene", "truth"),
  [
    (("count", YELLOW, "==", 3), SCENE, True),
    (("count", ("and", YELLOW, ("shape", "square")), ">=", 3), SCENE, False),
    (("count", ("or", BLUE, BLACK), "<=", 2), SCENE, True),
    (("count", ("touch", "corner"), "==", 1), SCENE, True),
    (("count", ("and", ("touch", "wall"), BLACK), ">=", 1), SCENE, False),
    (("count", ("touch", "bottom"), "==", 1), SCENE, True),
    (("count", ("touch", "left"), "==", 1), SCENE, True),
    (("boxes", ("same", "colour", ANY), "==", 2), SCENE, True),
    (("boxes", ("only", ANY, YELLOW), "==", 1), SCENE, True),
    (("boxes", ("count", ("size", "small"), ">=", 1), "==", 2), SCENE, True),
    (("more", BLACK, BLUE), SCENE, False),
    (
      (
        "boxes",
        ("both", ("count", BLUE, ">=", 1), ("count", YELLOW, ">=", 1)),
        ">=",
        1,
      ),
      SCENE,
      True,
    ),
    (("over", BLACK, BLUE), TOWERS, True),
    (("over", BLUE, BLACK), TOWERS, False),
    (("over", YELLOW, ANY), TOWERS, True),
    (
      ("boxes", ("count", ("and", BLUE, ("end", "top")), ">=", 1), "==", 1),
      TOWERS,
      True,
    ),
    (
      ("boxes", ("count", ("and", BLUE, ("end", "base")), ">=", 1), "==", 2),
      TOWERS,
      True,
    ),
  ],
)
def test_programmes_on_scenes_made_by_hand(programme, scene, truth):
  assert programmes.verify(programme, scene) is truth
  assert reference.evaluate(programme, scene) is truth


def test_family():
  assert (SCENE.family, TOWERS.family) == ("scatter", "tower")


@pytest.mark.parametrize("kind", phrases.KINDS)
def test_programmes_agree_with_the_oracle(kind):
  rng, scenes, truths = np.random.RandomState(1), pictures(12), set()
  for i in range(80):
    first = scenes[i % len(scenes)]
    if first.family in phrases.KINDS[kind][1]:
      _, programme = phrases.draw(rng, kind, first)
      for scene in scenes:
        if scene.family == first.family:
          truth = programmes.verify(programme, scene)
          assert truth == reference.evaluate(programme, scene), programme
          truths.add(truth)
  assert truths == {True, False}


@pytest.mark.parametrize("kind", ["exists", "none", "count", "compare"])
def test_sentences_say_what_their_programmes_say(kind):
  rng, scenes = np.random.RandomState(2), pictures(8)
  for i in range(300):
    text, programme = phrases.draw(rng, kind, scenes[i % 2])
    for scene in scenes:
      truth = programmes.verify(programme, scene)
      assert truth == reference.understand(text, scene.objects), (text, programme)


def test_lists_say_what_their_programmes_say():
  rng, scenes = np.random.RandomState(2), pictures(8)
  for i in range(200):
    text, programme = phrases.draw(rng, "list", scenes[i % 8])
    assert programmes.verify(programme, scenes[i % 8])
    for scene in scenes:
      truth = programmes.verify(programme, scene)
      assert truth == reference.understand_list(text, scene), (text, programme)


@pytest.mark.parametrize(
  "programme",
  [
    ("count", ("colour", "green"), "==", 1),
    ("count", YELLOW, "<", 1),
    ("count", YELLOW, "==", "one"),
    ("boxes", ("boxes", ("count", ANY, "==", 1), "==", 1), "==", 1),
    ("most", YELLOW),
  ],
)
def test_malformed_programmes_are_refused(programme):
  with pytest.raises(ValueError, match="is no pro"):
    programmes.verify(programme, SCENE)


def test_rows_are_true_or_false_as_they_say(train):
  assert len(train) == 600
  for row in train:
    assert reference.evaluate(row.programme, row.scene) == row.match


def test_text_tells_nothing(train):
  by_text = collections.defaultdict(list)
  for row in train:
    by_text[statements.normal(row.text)].append(row.match)
  assert all(2 * sum(found) == len(found) for found in by_text.values())


def test_scenes_are_balanced(train):
  count = collections.defaultdict(lambda: [0, 0])
  for row in train:
    count[row.scene.name][row.match] += 1
  better = sum(max(pair) for pair in count.values()) / len(train)
  assert better < 0.56  # always guessing the more frequent label of each scene
  assert len(count) > 60


def test_every_kind_comes_with_its_weight(train):
  mix = statements.mix(train)
  texts = mix.pop("texts")
  assert sum(mix.values()) == 600
  assert texts > 200
  total = sum(weight for weight, _ in phrases.KINDS.values())
  for kind, (weight, _) in phrases.KINDS.items():
    assert abs(mix[kind] / 600 - weight / total) < 0.08
    assert mix[kind]


def test_texts_of_train_and_test_are_disjoint(train):
  test = statements.generate(pictures(40, seed=9), 200, seed=3, test=True)
  assert all(statements.fold_of(r.text) == 0 for r in test)
  assert all(statements.fold_of(r.text) for r in train)
  assert statements.fold_of("There is  a circle.") == statements.fold_of(
    "there is a circle"
  )


def test_avoided_texts_do_not_come(train):
  avoid = {statements.normal(r.text) for r in train[:100]}
  again = statements.generate(pictures(80), 300, seed=3, avoid=avoid)
  assert not avoid & {statements.normal(r.text) for r in again}


def test_the_seed_decides(train):
  assert statements.generate(pictures(80), 600, seed=3) == train
  assert statements.generate(pictures(80), 600, seed=4) != train


def test_the_text_stays_the_same_over_versions():
  text, programme = phrases.draw(np.random.RandomState(0), "exists", SCENE)
  assert (text, programme) == (
    "One of the items is a yellow item.",
    ("count", ("colour", "yellow"), ">=", 1),
  )


def test_odd_numbers_and_too_few_scenes_are_refused():
  with pytest.raises(ValueError, match="in pairs"):
    statements.generate(pictures(4), 3, seed=0)
  with pytest.raises(ValueError, match="too few or too alike"):
    statements.generate([SCENE], 2, seed=0)
  with pytest.raises(ValueError, match="not of 'scatter'"):
    phrases.draw(np.random.RandomState(0), "order", SCENE)


def test_random_scenes_do_not_overlap():
  for scene in pictures(40, seed=5):
    for box in scene.boxes:
      assert box
      cover = np.zeros((100, 100), int)
      for o in box:
        cover[o.y : o.y + o.side, o.x : o.x + o.side] += 1
      assert cover.max() == 1
      assert cover.sum() == sum(o.side**2 for o in box)  # none leaves its box


def test_reordered_boxes():
  moved = SCENE.reordered((2, 0, 1))
  assert moved.boxes[2][0] == SCENE.boxes[0][0]._replace(place=2)
  assert moved.contents == SCENE.contents
  assert moved.objects[0].box == (300, 50, 310, 60)
