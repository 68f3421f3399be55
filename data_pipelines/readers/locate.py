"""Rows of a format by its name, and the media files that they mean.

A format is a file of this package, `didemo`, or a function in one, `tvr:tvqa`. It is
called with the source and, where it has them, the keywords given as "key=value,...".
"""

import functools
import importlib
import inspect
import os
import pathlib
import pkgutil
from collections.abc import Callable, Iterable

from data_pipelines.readers import archives, clip_row
from vlp_jax import errors, resolve

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv")
VIDEO += (".3gp", ".gif", ".ts", ".wmv", ".ogv")
SOUND = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".opus", ".aac", ".aiff", ".aif")
IMAGE = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
MEDIA = VIDEO + SOUND + IMAGE
HELPERS = ("archives", "clip_row", "contents", "locate", "subtitles", "tables")


def _is_format(name: str) -> bool:
  try:
    fn = getattr(importlib.import_module(f"{__package__}.{name}"), "read", None)
  except ModuleNotFoundError:
    return False  # a file of features whose optional package is not there
  hint = inspect.signature(fn).return_annotation if fn else None
  return hint == list[clip_row.ClipRow]


@functools.cache
def formats() -> tuple[str, ...]:
  """Names of the files of this package whose `read` gives clip rows."""
  here = importlib.import_module(__package__)
  names = [m.name for m in pkgutil.iter_modules(here.__path__)]
  return tuple(n for n in names if n not in HELPERS and _is_format(n))


def reader(name: str) -> Callable:
  """The function of a format; UserError with the nearest name."""
  file, _, function = name.partition(":")
  if file not in formats():
    raise errors.UserError(f"no format {name!r}.{resolve.nearest(file, formats())}")
  return resolve.function(__package__, f"{file}:{function or 'read'}")


def options(text: str, fn: Callable) -> dict:
  """Keywords of `fn` from "key=value,key=value", converted to its defaults' types."""
  known = inspect.signature(fn).parameters
  given = {}
  for part in filter(None, text.split(",")):
    key, equals, value = part.partition("=")
    default = known[key].default if key in known else inspect.Parameter.empty
    if not equals or default is inspect.Parameter.empty or key == "only":
      names = [k for k, p in known.items() if p.default is not p.empty and k != "only"]
      raise errors.UserError(f"options: {part!r}.{resolve.nearest(key, names)}")
    try:
      given[key] = _convert(value, default)
    except ValueError:
      raise errors.UserError(
        f"options: {key}={value!r}; the default is {default!r}."
      ) from None
  return given


def _convert(value: str, default):
  if isinstance(default, bool):
    if value.lower() not in ("true", "false", "1", "0"):
      raise ValueError(value)
    return value.lower() in ("true", "1")
  return type(default)(value)


def rows(name: str, source, *, given: str = "", files=None) -> list[clip_row.ClipRow]:
  """Rows of a source in a format.

  Args:
    given: keywords of the reader, "key=value,...".
    files: the media that are there, `Files`; formats that know `only` then skip what
      is said of other videos without keeping it.
  Raises: UserError for an unknown format or keyword, or a source of another format.
  """
  fn = reader(name)
  source = pathlib.Path(source)
  if not source.exists():
    raise errors.UserError(f"source {source} does not exist.")
  keywords = options(given, fn)
  if files is not None and "only" in inspect.signature(fn).parameters:
    keywords["only"] = files.stems
  found = fn(source, **keywords)
  if not found:
    raise errors.UserError(f"{source} holds no rows of format {name}.")
  return [clip_row.checked(row, k) for k, row in enumerate(found)]


def plain(name: str) -> str:
  """The name without the ending of a media file."""
  stem, dot, ending = name.rpartition(".")
  return stem if dot and f".{ending.lower()}" in MEDIA else name


class Files:
  """All media files and archives below a directory, found by path or by stem.

  Hidden files are left out; links are not followed into other directories.
  """

  def __init__(self, root):
    self.root = pathlib.Path(root)
    if not self.root.is_dir():
      raise errors.UserError(f"{root} is no directory of media files.")
    self.paths, self._stems = set(), {}
    for folder, folders, names in os.walk(self.root):
      folders[:] = sorted(f for f in folders if f[0] != ".")
      for name in sorted(names):
        if name[0] == "." or not self._known(name):
          continue
        path = os.path.relpath(os.path.join(folder, name), self.root)
        path = path.replace(os.sep, "/")
        self.paths.add(path)
        self._stems.setdefault(plain(path), path)
        self._stems.setdefault(plain(name), path)

  @staticmethod
  def _known(name: str) -> bool:
    ending = pathlib.Path(name).suffix.lower()
    return ending in (*MEDIA, ".parquet", ".tsv") or archives.is_archive(name)

  @property
  def stems(self) -> Iterable[str]:
    """Names without ending, with and without directories."""
    return self._stems.keys()

  def find(self, row: clip_row.ClipRow) -> str | None:
    """Path below the root of a row's file, None if it is not there."""
    for name in (row.media, *row.also):
      if name in self.paths:
        return name
      for stem in (plain(name), plain(name.rsplit("/", 1)[-1])):
        if stem and stem in self._stems:
          return self._stems[stem]
    return None


def present(source, directory: str, format: str, given: str, limit: int = 0):
  """(root of the media, split -> rows whose file is there, split -> files missing).

  `media` of the rows is then the path below the root. Rows of errors stay.
  Raises: UserError if the format is unknown or no file is there.
  """
  if not format:
    raise errors.UserError(
      f"give --format, one of {', '.join(formats())}, or a function of one (tvr:tvqa)."
    )
  source = pathlib.Path(source)
  if not source.exists():
    raise errors.UserError(f"source {source} does not exist.")
  root = pathlib.Path(directory or (source.parent if source.is_file() else source))
  files = Files(root)
  splits, missing = {}, {}
  found = rows(format, source, given=given, files=files)
  for split, listed in clip_row.by_split(found).items():
    kept, lost = [], set()
    for row in listed:
      at = row.media if row.error else files.find(row)
      if at is None:
        lost.add(row.media)
      else:
        kept.append(row._replace(media=at))
    splits[split] = kept[:limit] if limit else kept
    missing[split] = len(lost)
  if not any(not r.error for kept in splits.values() for r in kept):
    example = next((r.media for r in found if not r.error), "")
    if not example:
      raise errors.UserError(f"{source}: no row is sound, e.g. {found[0].error}.")
    raise errors.UserError(
      f"none of {sum(missing.values())} media files is below {root}, e.g. {example!r}."
    )
  return root, {s: kept for s, kept in splits.items() if kept}, missing
