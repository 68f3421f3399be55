"""NLVR: sentences about pictures of three boxes with coloured shapes (lil-lab/nlvr).

Alane Suhr et al., "A Corpus of Natural Language for Visual Reasoning", ACL 2017; data
under CC BY 4.0. On disk, `nlvr_dev.jsonl` with one object a line,

  {"identifier": "1021-0", "image": "dev-1021-0-0.png", "label": "true",
   "sentence": ..., "structured_rep": [[{"x_loc", "y_loc", "type", "color", "size"},
   ...], [...], [...]]}

and `nlvr_dev_images.zip`, PNG pictures of 400 x 100 pixels (RGBA), of which only a
check needs anything: `structured_rep` says every object with its place. Places are
pixels from the upper left corner of the object's box; the boxes lie at x = 0, 150, 300.

Examples are parted by sentence: the group is the part of `identifier` before the dash
(one sentence said of up to four pictures), its fold crc32(group) modulo 5, and fold 0
is held out by default.
"""

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

from data_pipelines.synthetic import box_scenes
from data_pipelines.synthetic.box_scenes import Object, Scene
from vlp_jax.errors import UserError

LICENCE = "CC BY 4.0, github.com/lil-lab/nlvr"
SENTENCES, PICTURES = "nlvr_dev.jsonl", "nlvr_dev_images.zip"
FOLDS = 5
RGB = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
_COLOURS = {"Black": "black", "#0099ff": "blue", "Yellow": "yellow"}
_SIZES = {pixels: size for size, pixels in box_scenes.PIXELS.items()}


class Example(NamedTuple):
  """One sentence about one picture. `match`: whether its writers call it true."""

  identifier: str
  sentence: str
  match: bool
  scene: Scene

  @property
  def group(self) -> str:
    """Of all pictures shown with this sentence."""
    return self.identifier.split("-")[0]

  @property
  def fold(self) -> int:
    """0 to 4, of the sentence group."""
    return fold_of(self.group)


def fold_of(group: str) -> int:
  """crc32 of the sentence group modulo five."""
  return zlib.crc32(group.encode()) % FOLDS


def _object(row, place: int) -> Object:
  return Object(
    shape=row["type"],
    colour=_COLOURS[row["color"]],
    size=_SIZES[row["size"]],
    place=place,
    x=int(row["x_loc"]),
    y=int(row["y_loc"]),
  )


def _example(row) -> Example:
  boxes = row["structured_rep"]
  if len(boxes) != box_scenes.NUM_BOXES:
    raise ValueError(f"{len(boxes)} boxes")
  objects = tuple(_object(o, k) for k, box in enumerate(boxes) for o in box)
  for o in objects:
    inside = min(o.x, o.y) >= 0 and max(o.x, o.y) + o.side <= box_scenes.BOX
    if o.shape not in box_scenes.SHAPES or not inside:
      raise ValueError(f"object {o}")
  match = {"true": True, "false": False}[row["label"]]
  image = row.get("image", f"{row['identifier']}-0.png")
  return Example(
    row["identifier"], row["sentence"].strip(), match, Scene(image, objects)
  )


def read(source) -> list[Example]:
  """All examples of `source/nlvr_dev.jsonl`, in the order of the file.

  Args:
    source: the directory, or a .jsonl file of this format.
  Raises: UserError if the file is missing or a line is not of the format above.
  """
  path = epath.Path(source)
  path = path if path.suffix == ".jsonl" else path / SENTENCES
  if not path.is_file():
    raise UserError(f"{path} is missing; NLVR's sentences are expected there.")
  examples = []
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if not line.strip():
      continue
    try:
      examples.append(_example(json.loads(line)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise UserError(f"{path}, line {number}: not an NLVR row ({error!r}).") from None
  if not examples:
    raise UserError(f"{path} has no rows.")
  return examples


def split(
  examples: Iterable[Example], fold: int = 0
) -> tuple[list[Example], list[Example]]:
  """(train, test): test is the given fold of sentence groups.

  A sentence or a scene (boxes in any order) may occur in several groups; examples that
  share one with the test fold are in neither part.
  Raises: UserError if `fold` is none of 0..4.
  """
  if fold not in range(FOLDS):
    raise UserError(f"fold is {fold}; the folds are 0 to {FOLDS - 1}.")
  examples = list(examples)
  test = [e for e in examples if e.fold == fold]
  sentences = {plain(e.sentence) for e in test}
  scenes = {e.scene.contents for e in test}
  train = [
    e
    for e in examples
    if e.fold != fold
    and plain(e.sentence) not in sentences
    and e.scene.contents not in scenes
  ]
  return train, test


def plain(sentence: str) -> str:
  """The sentence without case, final period and double blanks."""
  return " ".join(sentence.casefold().split()).strip(" .")


def check_pictures(source, examples: Iterable[Example], decode) -> int:
  """Compares pictures with what the file says is in them; how many objects were seen.

  Args:
    decode: PNG bytes -> [H, W, 3 or more] uint8.
  Raises: UserError at a picture of another size, or an object whose colour is not at
    the middle of its place.
  """
  seen = 0
  with zipfile.ZipFile(io.BytesIO((epath.Path(source) / PICTURES).read_bytes())) as z:
    for example in examples:
      name = example.scene.name
      pixels = decode(z.read(name))
      if pixels.shape[:2] != (box_scenes.HEIGHT, box_scenes.WIDTH):
        raise UserError(f"{name} is {pixels.shape}; expected 100 x 400 pixels.")
      for o in example.scene.objects:
        x1, y1, x2, y2 = o.box
        found = tuple(int(v) for v in pixels[(y1 + y2) // 2, (x1 + x2) // 2, :3])
        if found != RGB[o.colour]:
          raise UserError(f"{name}: {found} at the middle of {o}.")
        seen += 1
  return seen
