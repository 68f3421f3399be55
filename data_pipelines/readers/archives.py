"""Members of tar and zip files, judged before they are read; nothing is unpacked.

An archive is refused as a whole (UserError) if a member has an absolute path or `..`,
is a link or a device, if there are more than a million members, or if they expand more
than a thousandfold. A member is read by its place, so tar files must not be
compressed.
"""

import functools
import lzma
import pathlib
import stat
import tarfile
import zipfile
import zlib
from typing import NamedTuple

from data_pipelines import media
from vlp_jax import errors

MAX_MEMBERS = 1_000_000
MAX_RATIO = 1000
SMALL = 1 << 20  # bytes that any member may expand to
MAX_BYTES = 1 << 32  # of one member
TAR, ZIP = (".tar",), (".zip",)
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError)
_DAMAGE += (RuntimeError, ValueError)  # encrypted; of an unknown method
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


class Member(NamedTuple):
  """A file of an archive. `offset` is its place in a tar file, -1 in a zip file."""

  name: str
  size: int
  offset: int = -1


def is_archive(path) -> bool:
  """Whether the name is that of an archive that is read."""
  return pathlib.Path(path).suffix.lower() in TAR + ZIP


def _refuse(path, what) -> errors.UserError:
  return errors.UserError(f"{path}: {what}; the archive is refused.")


def _check_name(path, name: str) -> None:
  parts = name.replace("\\", "/").split("/")
  drive = len(parts[0]) == 2 and parts[0].endswith(":")
  if not name or name.startswith(("/", "\\")) or ".." in parts or drive or "\0" in name:
    raise _refuse(path, f"member {name!r} leads out of the archive")


def _check_count(path, count: int) -> None:
  if count > MAX_MEMBERS:
    raise _refuse(path, f"more than {MAX_MEMBERS} members")


def _zip(path) -> list[Member]:
  found = []
  with zipfile.ZipFile(path) as archive:
    infos = archive.infolist()
    _check_count(path, len(infos))
    for info in infos:
      _check_name(path, info.filename)
      mode = info.external_attr >> 16
      if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refuse(path, f"member {info.filename!r} is a link or device")
      ratio = info.file_size > MAX_RATIO * max(1, info.compress_size)
      if info.file_size > MAX_BYTES or (ratio and info.file_size > SMALL):
        raise _refuse(
          path,
          f"member {info.filename!r} expands from {info.compress_size} to "
          f"{info.file_size} bytes",
        )
      if not info.is_dir():
        found.append(Member(info.filename, info.file_size))
  return found


def _tar(path) -> list[Member]:
  found, size = [], pathlib.Path(path).stat().st_size
  with tarfile.open(path, "r:") as archive:
    for count, info in enumerate(archive, 1):
      _check_count(path, count)
      _check_name(path, info.name)
      if info.isdir():
        continue
      # A sparse file expands without bound.
      if not info.isreg() or info.issparse():
        raise _refuse(path, f"member {info.name!r} is a link, a device or sparse")
      if info.offset_data + info.size > size:
        raise errors.UserError(f"{path} is cut off in member {info.name!r}.")
      found.append(Member(info.name, info.size, info.offset_data))
      archive.members = []  # tarfile keeps them all
  return found


@functools.lru_cache(maxsize=8)
def _members(path: str, changed: int) -> dict[str, Member]:
  kind = pathlib.Path(path).suffix.lower()
  try:
    found = _zip(path) if kind in ZIP else _tar(path)
  except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise errors.UserError(f"{path} is no readable archive: {reason}.") from None
  except (OSError, NotImplementedError) as error:
    reason = getattr(error, "strerror", None) or error
    raise errors.UserError(f"{path}: {reason}.") from None
  return {m.name: m for m in found}


@functools.lru_cache(maxsize=4)
def _opened(path: str, changed: int) -> zipfile.ZipFile:
  # Kept open: its directory is read once, not for each member.
  return zipfile.ZipFile(path)


def _key(path) -> tuple[str, int]:
  try:
    return str(path), pathlib.Path(path).stat().st_mtime_ns
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror}.") from None


def members(path) -> dict[str, Member]:
  """Name -> member of the files of an archive, in its order.

  Raises: UserError if it is refused, damaged, compressed as a whole or missing.
  """
  path = pathlib.Path(path)
  if path.name.lower().endswith(PACKED):
    raise errors.UserError(
      f"{path} is compressed as a whole; its members cannot be read by their place. "
      "Unpack it to a .tar first."
    )
  return _members(*_key(path))


def read(path, name: str) -> bytes:
  """Bytes of one member.

  Raises: UserError as `members`; MediaError if it is missing or damaged.
  """
  member = members(path).get(name)
  if member is None:
    raise media.MediaError(f"{path}: no member {name!r}.")
  try:
    if member.offset >= 0:
      with open(path, "rb") as f:
        f.seek(member.offset)
        data = f.read(member.size)
    else:
      # Not more than the header says, whatever the packed bytes hold.
      with _opened(*_key(path)).open(name) as f:
        data = f.read(member.size)
  except _DAMAGE as error:
    raise media.MediaError(f"{path}: {name}: {' '.join(str(error).split())}.") from None
  if len(data) != member.size:
    raise media.MediaError(f"{path}: {name} is cut off.")
  return data
