"""Images that must not be trained on, because a test is made of them.

UNITER's rule (arXiv 1909.11740): no COCO image of the validation or test sets of the
tasks is used in pretraining, also not through Visual Genome, nor one of Flickr30k
through Visual Genome, SBU or any url. 12-in-1's clean split goes further: no test image
of any task in any training set.

A list of images is a text file with a name a line, a JSON list, or a file of Karpathy's
splits, of which val and test count (COCO's restval is trained on).
"""

import pathlib
from collections.abc import Iterable

from data_pipelines.readers import example, image_captions, regions, tables
from vlp_jax import errors

HELD_OUT = ("val", "test")


def names(path) -> set[str]:
  """Plain names of the images that a file holds out."""
  path = pathlib.Path(path)
  if path.suffix != ".json":
    found = tables.read(path).split("\n")
    return {regions.plain(n.strip()) for n in found if n.strip()}
  found = tables.value(path)
  if isinstance(found, list):
    return {regions.plain(str(n)) for n in found}
  rows = image_captions.karpathy(path)
  return {regions.plain(e.images[0]) for e in rows if e.split in HELD_OUT}


def through_visual_genome(image_data, held_out: Iterable[str]) -> set[str]:
  """Plain names of Visual Genome's images that are held out under another name.

  Args:
    image_data: its image_data.json: [{image_id, coco_id, flickr_id, ...}].
    held_out: plain names of COCO and Flickr30k images.
  """
  held_out = set(held_out)
  try:
    return {
      str(row["image_id"])
      for row in tables.value(image_data)
      if {str(row.get("coco_id")), str(row.get("flickr_id"))} & held_out
    }
  except example.WRONG as error:
    raise errors.UserError(
      f"{image_data} is no image_data.json of Visual Genome "
      f"({type(error).__name__} {error})."
    ) from None


def is_held_out(e: example.Example, held_out: set[str]) -> bool:
  """Whether an example shows a held-out image, by name or by its Flickr photo."""
  places = [*e.images, e.more.get("url", "")]
  photos = {image_captions.flickr_id(p) for p in places} - {None}
  return bool(({regions.plain(n) for n in e.images} | photos) & held_out)
