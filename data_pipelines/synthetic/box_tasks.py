"""Stand-ins for VQA and NLVR2: questions and statements about generated scenes.

Files of the published forms are written (UNITER's .npz of regions, LXMERT's questions,
NLVR2's JSON lines) and prepared the way users' files are. Regions are 16 wide, of 28
classes.

  questions   "how many blue circles are there ?": the number, and those beside it with
              a score of 0.3; "is there a big blue circle ?"; "which colour is most
              common ?", where each of equals counts 1. The answers are `ANSWERS`
  statements  about two scenes, each said of a pair of which it is true and of one of
              which it is false: "the left image has more blue objects"
"""

import itertools
import json
import pathlib
import tempfile

import numpy as np

from data_pipelines.prepare import nlvr2, scenes
from data_pipelines.prepare import vqa as vqa_lib
from data_pipelines.readers import true_regions
from data_pipelines.synthetic import box_scenes

DIM = 16
ANSWERS = ("no", "yes", *box_scenes.COLOURS, *map(str, range(10)))
NEAR = 0.3  # score of a number that is one off
QUESTIONS = {"train": 128, "val": 40}
STATEMENTS = {"train": 128, "val": 40}
_SCENES = 96  # and a quarter as many for validation
_TRIES = 400


def _save(path: pathlib.Path, scene: box_scenes.Scene) -> None:
  found = true_regions.features(scene.objects, dim=DIM, key=path.stem)
  np.savez(
    path,
    features=found.features,
    norm_bb=found.boxes[:, :6],
    conf=found.conf,
    soft_labels=found.probs,
  )


def _pictures() -> dict[str, list[box_scenes.Scene]]:
  made = scenes.random_scenes(_SCENES, seed=0)
  return {"train": made["train"], "val": made["test"]}


def _question(rng, scene, kind: int) -> tuple[str, dict[str, float]]:
  """(question, answer -> score) of one of three kinds."""
  names = (box_scenes.SIZES, box_scenes.COLOURS, box_scenes.SHAPES)
  size, colour, shape = (str(rng.choice(n)) for n in names)
  if kind == 0:
    num = sum(o.colour == colour and o.shape == shape for o in scene.objects)
    scores = {str(min(num, 9)): 1.0}
    scores |= {str(n): NEAR for n in (num - 1, num + 1) if 0 <= n <= 9 and num <= 9}
    return f"how many {colour} {shape}s are there ?", scores
  if kind == 1:
    some = any(o[:3] == (shape, colour, size) for o in scene.objects)
    return f"is there a {size} {colour} {shape} ?", {ANSWERS[some]: 1.0}
  counts = [sum(o.colour == c for o in scene.objects) for c in box_scenes.COLOURS]
  most = [
    c for c, n in zip(box_scenes.COLOURS, counts, strict=True) if n == max(counts)
  ]
  return "which colour is most common ?", dict.fromkeys(most, 1.0)


def vqa(out: pathlib.Path) -> None:
  """128 questions for training, 40 held out, with soft scores of 15 answers."""
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as folder:
    root, files = pathlib.Path(folder), []
    for split, pictures in _pictures().items():
      rows = []
      for scene in pictures:
        _save(root / f"{scene.name}.npz", scene)
      for k in range(QUESTIONS[split]):
        scene = pictures[k % len(pictures)]
        text, scores = _question(rng, scene, k % 3)
        rows.append({"img_id": scene.name, "question_id": k, "sent": text})
        rows[-1]["label"] = scores
      (root / f"{split}.json").write_text(json.dumps(rows))
      files.append(f"{split}={split}.json")
    (root / "answers.json").write_text(json.dumps(ANSWERS))
    vqa_lib.prepare(
      root,
      out,
      regions_format="npz",
      questions_format="lxmert",
      questions=",".join(files),
      answers_file=str(root / "answers.json"),
      name="vqa_scenes",
      licence="generated, no rights reserved",
      vocab_size=200,
      quiet=True,
    )


def _more(pair, what) -> bool:
  """Whether the left scene has more such objects."""
  left, right = (sum(what in o[:3] for o in scene.objects) for scene in pair)
  return left > right


def _both(pair, what) -> bool:
  """Whether both scenes have such an object."""
  return all(any(what in o[:3] for o in scene.objects) for scene in pair)


WORDINGS = {
  "the left image has more {} objects than the right image .": _more,
  "there is a {} object in both images .": _both,
}


def _pairs(rng, pictures, true, what):
  """A pair of scenes of which it is true and one of which it is false, or None."""
  found = {}
  for _ in range(_TRIES):
    pair = tuple(pictures[i] for i in rng.integers(len(pictures), size=2))
    found.setdefault(true(pair, what), pair)
    if len(found) == 2:
      return found
  return None


def statements(out: pathlib.Path) -> None:
  """128 statements for training, 40 held out, each sentence of two pairs."""
  rng = np.random.default_rng(0)
  words = (*box_scenes.SHAPES, *box_scenes.COLOURS, *box_scenes.SIZES)
  kinds = list(itertools.product(WORDINGS, words))
  with tempfile.TemporaryDirectory() as folder:
    root, files = pathlib.Path(folder), []
    for split, pictures in _pictures().items():
      lines, turns = (
        [],
        (kinds[i] for i in itertools.cycle(rng.permutation(len(kinds)))),
      )
      own = {"val": "dev"}.get(split, split)
      while len(lines) < STATEMENTS[split]:
        wording, what = next(turns)
        found = _pairs(rng, pictures, WORDINGS[wording], what)
        if found is None:
          continue
        number = len(lines) // 2
        for pair, label in enumerate((True, False)):
          for side, scene in enumerate(found[label]):
            _save(root / f"{own}-{number}-{pair}-img{side}.npz", scene)
          row = {"identifier": f"{own}-{number}-{pair}-0", "label": str(label)}
          lines.append(row | {"sentence": wording.format(what)})
      (root / f"{split}.json").write_text("".join(json.dumps(r) + "\n" for r in lines))
      files.append(f"{split}={split}.json")
    nlvr2.prepare(
      root,
      out,
      regions_format="npz",
      statements=",".join(files),
      vocab_size=200,
      quiet=True,
    )
