"""Hash manifests of directories, and the comparison of two trees of arrays.

`manifest.json` lists every file of a directory with size and BLAKE2b hash. It is
written last and in one piece: a directory is complete if and only if it has one. It
guards itself by a hash of its own content.
"""

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from vlp_jax import workdir
from vlp_jax.errors import CheckpointError

NAME = "manifest.json"
CHUNK = 1 << 22  # bytes read at once; hashing releases the interpreter lock


def digest(path: epath.Path) -> tuple[int, str]:
  """Size in bytes and hash of a file."""
  code, size = hashlib.blake2b(digest_size=32), 0
  with path.open("rb") as f:
    while chunk := f.read(CHUNK):
      code.update(chunk)
      size += len(chunk)
  return size, code.hexdigest()


def _files(directory: epath.Path, prefix: str = "") -> list[str]:
  found = []
  for path in sorted(directory.iterdir()):
    name = prefix + path.name
    found += _files(path, f"{name}/") if path.is_dir() else [name]
  return [name for name in found if name != NAME]


def _digests(directory, names):
  """{name: (size, hash)}, (-1, "") where a file cannot be read."""

  def one(name):
    try:
      return digest(directory / name)
    except OSError:
      return -1, ""

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    return dict(zip(names, pool.map(one, names), strict=True))


def _own(body: Mapping[str, Any]) -> str:
  text = json.dumps(body, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def commit(directory: epath.Path, about: Mapping[str, Any]) -> None:
  """Writes the manifest of a finished directory, with `about` beside the files."""
  files = _digests(directory, _files(directory))
  body = json.loads(workdir.dumps(dict(about) | {"files": files}))
  workdir.write_text(
    directory / NAME, workdir.dumps({"body": body, "digest": _own(body)})
  )


def committed(directory: epath.Path) -> bool:
  return (directory / NAME).exists()


def read(directory: epath.Path) -> dict[str, Any]:
  """What `commit` wrote. Raises CheckpointError when the manifest is damaged."""
  path = directory / NAME
  try:
    found = json.loads(path.read_text())
    body = found["body"]
    good = found["digest"] == _own(body)
  except (OSError, ValueError, KeyError, TypeError):
    good = False
  if not good:
    raise CheckpointError(f"{path} is damaged: its content does not fit its hash.")
  return body


def verify(directory: epath.Path) -> dict[str, Any]:
  """Compares every file with the manifest and returns what that says besides.

  Raises: CheckpointError with the first file that is missing, cut or changed.
  """
  body = read(directory)
  found = _digests(directory, list(body["files"]))
  for name, (size, code) in body["files"].items():
    now, other = found[name]
    path = os.fspath(directory / name)
    if now < 0:
      raise CheckpointError(f"{path} is missing or cannot be read.")
    if now != size:
      raise CheckpointError(f"{path} has {now} bytes; it was saved with {size}.")
    if other != code:
      raise CheckpointError(f"{path} is damaged: it does not fit the hash it had.")
  return body


def compare(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
  """How two trees differ, in one line; "" when they do not.

  Args:
    saved, wanted: {path: [shape, dtype name]}.
  """
  missing = sorted(set(wanted) - set(saved))
  unexpected = sorted(set(saved) - set(wanted))
  show = lambda x: f"{x[1]}{list(x[0])}"
  mismatched = [
    f"{k} {show(saved[k])} for {show(wanted[k])}"
    for k in sorted(set(saved) & set(wanted))
    if show(saved[k]) != show(wanted[k])
  ]
  kinds = dict(missing=missing, unexpected=unexpected, mismatched=mismatched)
  parts = [
    f"{len(keys)} {kind}: {', '.join(keys[:20])}{', ...' if len(keys) > 20 else ''}"
    for kind, keys in kinds.items()
    if keys
  ]
  return "; ".join(parts)
