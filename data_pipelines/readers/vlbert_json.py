"""VL-BERT's region files (arXiv 1908.08530): a JSON an image, usually inside zips.

  {image_w, image_h, num_boxes, boxes, features, classes}

with base64 of float32: boxes [n, 4] x1 y1 x2 y2 in pixels, features [n, D], classes
[n, C] with the background at 0 (`classes` may be missing). Boxes come back sorted by
their highest class score, as the published loader has them; `conf` is the highest but
the background's. A path is a directory of `<image>.json` and `<any>.zip`, or one zip;
members are named as `train.zip@/00000042.json`. Nothing is extracted.
"""

import json
import pathlib
import zipfile
import zlib

import numpy as np

from data_pipelines.readers import lines, regions
from vlp_jax import errors

MAX_MEMBERS = 999_999
MAX_BYTES = 1 << 26  # of one JSON
RATIO = 100  # base64 of floats shrinks by a quarter


class Reader:
  """See the header."""

  def __init__(self, path):
    self.path, self.zips, self.places = pathlib.Path(path), {}, {}
    if self.path.is_dir():
      for at in sorted(self.path.rglob("*.json")):
        relative = at.relative_to(self.path).as_posix()
        self.places.setdefault(regions.plain(relative), relative)
    single = self.path.is_file() and self.path.suffix == ".zip"
    self.root = self.path.parent if single else self.path
    for at in [self.path] if single else sorted(self.path.glob("*.zip")):
      archive = self._zip(at.name)
      for member in archive.namelist():
        if member.endswith(".json"):
          self.places.setdefault(regions.plain(member), f"{at.name}@/{member}")
    if not self.places:
      raise errors.UserError(
        f"{path}: neither <image>.json nor a zip of them is there."
      )

  def _zip(self, name) -> zipfile.ZipFile:
    if name not in self.zips:
      try:
        archive = zipfile.ZipFile(self.root / name)
      except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise errors.UserError(f"{self.root / name}: {error}.") from None
      if len(archive.filelist) > MAX_MEMBERS:
        num = len(archive.filelist)
        raise errors.UserError(f"{self.root / name} has {num} members; not read.")
      self.zips[name] = archive
    return self.zips[name]

  def _bytes(self, name, place) -> bytes:
    file, at, member = place.partition("@/")
    try:
      if not at:
        path = self.path / place
        if path.stat().st_size > MAX_BYTES:
          raise ValueError(f"image {name}: {path} has over {MAX_BYTES} bytes")
        return path.read_bytes()
      archive = self._zip(file)
      entry = archive.getinfo(member)
      if entry.file_size > min(MAX_BYTES, RATIO * max(entry.compress_size, 1024)):
        raise ValueError(f"image {name}: {place} expands to {entry.file_size} bytes")
      return archive.read(entry)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
      raise ValueError(f"image {name}: {place}: {error}") from None

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    try:
      x = json.loads(self._bytes(name, place))
      num, size = int(x["num_boxes"]), (float(x["image_w"]), float(x["image_h"]))
      boxes, features, classes = x["boxes"], x["features"], x.get("classes")
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
      reason = f"{type(error).__name__} {error}"
      raise ValueError(f"image {name}: no region file ({reason})") from None
    boxes = lines.array(name, "boxes", boxes, "<f4", (num, 4))
    features = lines.array(name, "features", features, "<f4", (num, -1))
    if classes is None:
      return regions.make(name, features, boxes, size=size)
    probs = lines.array(name, "classes", classes, "<f4", (num, -1))
    order = np.argsort(-probs.max(axis=1), kind="stable")
    return regions.make(
      name,
      features[order],
      boxes[order],
      size=size,
      probs=probs[order],
      conf=probs[order, 1:].max(axis=1) if probs.shape[1] > 1 else None,
    )
