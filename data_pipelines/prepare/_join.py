"""Users' region files and annotation files, joined by image into rows of `prepare`.

A row is a dict of key, text, images, `at` (for each image [number of the source, name,
place]; None without regions), and what the data set adds: label, answers. Encoding a
row reads its images from the users' files, so that a row stays small.
"""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from data_pipelines import vocabularies
from data_pipelines.readers import example as examples
from data_pipelines.readers import oscar_tsv, overlap, regions
from vlp_jax import errors, resolve


class Sources(NamedTuple):
  """Files of region features of one format. `options`: of its reader."""

  kind: str
  paths: tuple[str, ...]
  options: tuple[tuple[str, object], ...]

  def reader(self, number: int):
    """Opened once a process."""
    return regions.open_reader(self.kind, self.paths[number], self.options)

  def places(self) -> dict[str, list]:
    """{image name: [number of the source, name, place]}; the first source counts."""
    found = {}
    for number in range(len(self.paths)):
      for name, place in self.reader(number).places.items():
        found.setdefault(name, [number, name, place])
    return found


def sources(
  source, paths: str, kind: str, options: str = "", objects_file: str = ""
) -> Sources:
  """Region files as the command line names them.

  Args:
    paths: parted by commas, below `source` or as they are; "" is the source itself.
    options: "key=value,..." of the reader; numbers become numbers.
  Raises: UserError for a missing path, an unknown format or option.
  """
  given = examples.parted(paths, source) if paths else [("", pathlib.Path(source))]
  found = {}
  for part in filter(None, options.split(",")):
    key, at, value = part.partition("=")
    if not at:
      raise errors.UserError(f"regions_options: {part!r} is no key=value.")
    found[key.strip()] = _number(value.strip())
  if kind == "oscar_tsv" and objects_file:
    found.setdefault("objects_file", objects_file)
  out = Sources(kind, tuple(str(p) for _, p in given), tuple(sorted(found.items())))
  for number in range(len(out.paths)):
    out.reader(number)
  return out


def _number(value: str):
  for kind in (int, float):
    try:
      return kind(value)
    except ValueError:
      continue
  return value


def annotations(
  source, given: str, module, name: str, *, limit: int = 0, **keywords
) -> dict[str, list[examples.Example]]:
  """Split -> examples of the annotation files, keys unique in a split.

  Args:
    given: "train=a.json,val=b.json"; without a split, by the row or the file's name.
    module, name: whose function `name` reads a file; `keywords` are for it.
    limit: of each split, 0 for all.
  """
  read = examples.find(module, name, module.FORMATS)
  files, out, seen = examples.parted(given, source), {}, set()
  if not files:
    raise errors.UserError("no annotation file is given.")
  for split, path in files:
    for e in read(path, **keywords):
      own = examples.split_of(path, split, e)
      rows = out.setdefault(own, [])
      if limit and len(rows) >= limit:
        if split:
          break
        continue
      key = e.key if (own, e.key) not in seen else f"{path.name}:{e.key}"
      if (own, key) in seen:
        raise errors.UserError(f"{path}: two rows have the key {e.key!r}.")
      seen.add((own, key))
      rows.append(e._replace(key=key, split=own))
  return out


def held_out(source, exclude: str, vg_image_data: str) -> set[str]:
  """Plain names of the images of the `exclude` files; see `readers/overlap.py`."""
  found = set()
  for _, path in examples.parted(exclude, source):
    found |= overlap.names(path)
  if vg_image_data and found:
    for _, path in examples.parted(vg_image_data, source):
      found |= overlap.through_visual_genome(path, found)
  return found


def join(
  splits: Mapping[str, Iterable[examples.Example]],
  places: Mapping[str, list],
  add: Callable[[examples.Example], dict] = lambda e: {},
  *,
  without: set[str] = frozenset(),
  skip_missing: bool = False,
) -> tuple[dict[str, list[dict]], dict[str, dict[str, int]]]:
  """(split -> rows, split -> how many were left out and why).

  Args:
    places: image name -> [source, name, place].
    add: further entries of a row.
    without: plain names of held-out images; their examples leave the training splits.
    skip_missing: leave out texts whose images have no regions, else they are damaged.
  Raises: UserError if no text at all finds its image.
  """
  find, out, lost = regions.lookup(places), {}, {}
  first, hits = None, 0
  for split, rows in splits.items():
    counts = lost[split] = {"no_text": 0, "held_out": 0, "no_regions": 0}
    kept = out[split] = []
    for e in rows:
      if not e.text:
        counts["no_text"] += 1
      elif split.startswith("train") and without and overlap.is_held_out(e, without):
        counts["held_out"] += 1
      else:
        names = [find(n) for n in e.images]
        found = None not in names
        first, hits = first or e.images[0], hits + found
        if skip_missing and not found:
          counts["no_regions"] += 1
          continue
        at = [places[n] for n in names] if found else None
        images = list(e.images)
        kept.append({"key": e.key, "text": e.text, "images": images, "at": at} | add(e))
  if first is not None and not hits:
    raise errors.UserError(
      f"no text finds its image: texts are about {first!r} and others, regions of "
      f"{next(iter(places))!r} and others. Are these files of one image set?"
    )
  return out, lost


def class_names(objects_file: str, attributes_file: str) -> dict[str, list[str]]:
  """`classes` of dataset_info: the first alias of each name, after 0."""
  out = {}
  for kind, file, zero in (
    ("objects", objects_file, "background"),
    ("attributes", attributes_file, "none"),
  ):
    if file:
      out[kind] = [zero, *(aliases[0] for aliases in oscar_tsv.class_names(file))]
  return out


def decoder(vocab_file: str) -> Callable | None:
  """Ids of tokens -> text by a vocabulary file; None without one."""
  if not vocab_file:
    return None
  return vocabularies.build({"name": "wordpiece", "file": vocab_file}).decode


def module_of(kind: str, known: Mapping):
  """The module that reads annotations of a format; UserError with the nearest."""
  for module in known.values():
    if kind in module.FORMATS:
      return module
  names = [n for m in known.values() for n in m.FORMATS]
  raise errors.UserError(f"no format {kind!r}.{resolve.nearest(kind, names)}")
