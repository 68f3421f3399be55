"""What a row's `media` and `member` hold: a path, bytes, or stored frames."""

import base64
import binascii
import pathlib

from data_pipelines import media
from data_pipelines.readers import archives, parquet
from vlp_jax import errors

MAX_LINE = 1 << 30  # bytes of a line of base64 pictures


def source(root, path: str, member: str = ""):
  """A pathlib.Path of a media file, or its bytes, or a list of encoded pictures.

  Args:
    root: directory of the media; `path` must lie below it, links included.
    member: name in a tar or zip file, "column#row" of a parquet file, or byte offset
      of a line of a tsv file with base64 pictures.
  Raises: MediaError if it is not there, damaged, or outside of the root.
  """
  root = pathlib.Path(root).resolve()
  at = (root / path).resolve()
  if not path or not at.is_relative_to(root):
    raise media.MediaError(f"{path!r} does not lie below {root.name}.")
  if not at.is_file():
    raise media.MediaError(f"{path}: no such file.")
  if not member:
    return at
  kind = at.suffix.lower()
  try:
    if kind == ".parquet":
      return parquet.content(at, member)
    if kind == ".tsv":
      return pictures(at, int(member))
    return archives.read(at, member)
  except errors.UserError as error:  # an archive that changed since it was listed
    raise media.MediaError(str(error)) from None


def pictures(path, offset: int) -> list[bytes]:
  """The encoded pictures of one line of a tsv file: id, then one base64 field each."""
  with open(path, "rb") as f:
    f.seek(offset)
    line = f.readline(MAX_LINE)
  if not line.endswith(b"\n") and len(line) == MAX_LINE:
    raise media.MediaError(f"{path}: a line of over {MAX_LINE} bytes at {offset}.")
  try:
    return [
      base64.b64decode(x, validate=True) for x in line.rstrip().split(b"\t")[1:] if x
    ]
  except (binascii.Error, ValueError) as error:
    raise media.MediaError(f"{path}: no base64 at {offset}: {error}.") from None
