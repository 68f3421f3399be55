"""The files of a run beside its checkpoints and logs, and the lock that guards them.

  lock.json     the job that writes here: host, pid, start, heartbeat
  config.json   the config as data            env.json   versions and devices
  results.json  {metric: {"value", "chance", "n", "ci", "protocol"}}

All are read as data only, and written whole or not at all. Paths may be `gs://`.
"""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vlp_jax.errors import UserError
from vlp_jax.metrics import Result

log = logging.getLogger(__name__)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow")


FIELDS = Result._fields


def root(path: str | os.PathLike) -> epath.Path:
  """An absolute path: orbax finds out about relative ones at the first save only."""
  text = os.fspath(path)
  return epath.Path(text if "://" in text else os.path.abspath(text))


def from_first(value: int) -> int:
  """The value that process 0 has, on all processes. A collective call."""
  if jax.process_count() == 1:
    return int(value)
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _plain(value):
  """What json does not know: numpy and jax scalars and arrays."""
  if hasattr(value, "tolist"):
    return value.tolist()
  raise TypeError(f"{value!r} of type {type(value).__name__} is no data for json.")


def dumps(value: Any) -> str:
  return json.dumps(value, default=_plain, indent=1)


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file whole or not at all: a reader never finds half of it."""
  if "://" in os.fspath(path):
    path.write_text(text)  # an object store replaces objects whole
    return
  temporary = f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}.tmp"
  try:
    with open(temporary, "w", encoding="utf-8") as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except OSError:
    with contextlib.suppress(FileNotFoundError):
      os.remove(temporary)
    raise


def read_json(path: epath.Path) -> Any:
  """The content of a json file, {} when there is none."""
  return json.loads(path.read_text()) if path.exists() else {}


def read_config(workdir: str | os.PathLike) -> dict[str, Any]:
  """The config of the last start in this workdir, {} when there was none."""
  return read_json(root(workdir) / "config.json")


def read_env(workdir: str | os.PathLike) -> dict[str, Any]:
  return read_json(root(workdir) / "env.json")


def read_results(workdir: str | os.PathLike) -> dict[str, Result]:
  """Results of the last evaluation, {} when there is none."""
  blank = lambda d: {k: math.nan if d[k] is None else d[k] for k in FIELDS if k in d}
  table = read_json(root(workdir) / "results.json")
  return {k: Result(**blank(v)) for k, v in table.items()}


def _fields(result):
  return dict(result) if isinstance(result, Mapping) else result._asdict()


def write_results(
  workdir: str | os.PathLike, results: Mapping[str, Result | Mapping] | None
) -> None:
  """Writes results.json on process 0; what is not finite becomes null.

  An entry may be a mapping with the fields of Result and more (`baselines`).
  """
  if jax.process_index() != 0:
    return
  known = lambda x: None if isinstance(x, float) and not math.isfinite(x) else x
  table = {
    name: {k: known(v) for k, v in _fields(result).items()}
    for name, result in (results or {}).items()
  }
  write_text(root(workdir) / "results.json", dumps(table))


def write_start(workdir: str | os.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json and env.json on process 0."""
  if jax.process_index() != 0:
    return
  versions = {}
  for package in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  env = dict(
    python=platform.python_version(),
    platform=platform.platform(),
    versions=versions,
    device=jax.devices()[0].device_kind,
    num_devices=jax.device_count(),
    num_processes=jax.process_count(),
  )
  root(workdir).mkdir(parents=True, exist_ok=True)
  write_text(root(workdir) / "config.json", dumps(config))
  write_text(root(workdir) / "env.json", dumps(env))


def _ticks(pid: int) -> str:
  """When a process of this machine started, "" if unknown: pids are used again."""
  try:
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
      return f.read().rsplit(")", 1)[1].split()[19]
  except (OSError, IndexError):
    return ""


def _alive(held: Mapping[str, Any], stale_s: float) -> bool:
  """Whether the job of a lock may still run."""
  if held.get("host") != socket.gethostname():
    return time.time() - held.get("heartbeat", 0.0) < stale_s
  try:
    os.kill(int(held.get("pid", -1)), 0)
  except (ProcessLookupError, ValueError, OverflowError):
    return False
  except PermissionError:
    return True  # it runs, as another user
  # A container that is started again has the host and pid of the one before.
  return held.get("ticks", "") == _ticks(int(held["pid"]))


def _take(path: epath.Path, text: str, stale_s: float) -> dict[str, Any] | None:
  """Creates the lock; returns the living job that holds it, None when it is ours."""
  for _ in range(3):
    if "://" in os.fspath(path):  # no exclusive creation there: the best there is
      held = json.loads(path.read_text()) if path.exists() else None
      if held is None or not _alive(held, stale_s):
        path.write_text(text)
        return None
      return held
    # A link appears with all its content, or not at all because there is one.
    temporary = f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}.tmp"
    with open(temporary, "w", encoding="utf-8") as f:
      f.write(text)
    try:
      os.link(temporary, path)
      return None
    except FileExistsError:
      held = _held(path)
    finally:
      os.remove(temporary)
    if held is not None and _alive(held, stale_s):
      return held
    log.warning("taking over the stale lock %s of %s", path, held)
    aside = f"{os.fspath(path)}.{uuid.uuid4().hex[:8]}.stale"
    with contextlib.suppress(FileNotFoundError):
      os.rename(path, aside)
      if _held(epath.Path(aside)) != held:  # another job took it over before us
        with contextlib.suppress(FileExistsError):
          os.link(aside, path)
      os.remove(aside)
  return _held(path) or {}


def _held(path: epath.Path) -> dict[str, Any] | None:
  """The content of a lock; None when it is gone or no lock at all."""
  try:
    return dict(json.loads(path.read_text()))
  except (FileNotFoundError, ValueError, TypeError):
    return None


@contextlib.contextmanager
def lock(
  workdir: str | os.PathLike, *, beat_s: float = 10.0, stale_s: float = 60.0
) -> Iterator[None]:
  """Holds a workdir, which it makes, for this job; process 0 keeps the lock.

  Args:
    beat_s: seconds between heartbeats, which tell jobs on other hosts that we live.
    stale_s: age in seconds of a heartbeat from another host that counts as death. On
      the same host the process itself is looked for.
  Raises: UserError, on all processes, when a living job holds it.
  """
  at, first = root(workdir), jax.process_index() == 0
  path, held, stop = at / "lock.json", None, threading.Event()
  start = time.strftime("%Y-%m-%d %H:%M:%S %z")
  own = dict(host=socket.gethostname(), pid=os.getpid(), start=start)
  own |= dict(ticks=_ticks(os.getpid()), job=uuid.uuid4().hex)
  text = lambda: dumps(own | {"heartbeat": time.time()})
  if first:
    at.mkdir(parents=True, exist_ok=True)
    held = _take(path, text(), stale_s)
  if from_first(held is not None):
    if held is None:  # we are not the process that looked
      held = _held(path) or {}
    raise UserError(
      f"{at} is in use by a job on {held.get('host')}, pid {held.get('pid')}, started "
      f"{held.get('start')}. Stop it, or choose another --workdir."
    )

  def ours():
    return (_held(path) or {}).get("job") == own["job"]

  def beat():
    while not stop.wait(beat_s):
      try:
        if not ours():
          log.error("the lock %s was taken over by another job", path)
          return
        write_text(path, text())
      except OSError as error:  # a full disk must not end the heart
        log.warning("heartbeat of %s failed: %s", path, error)

  heart = threading.Thread(target=beat, name="lock", daemon=True)
  if first:
    heart.start()
  try:
    yield
  finally:
    stop.set()
    if first:
      heart.join()
      if ours():
        path.unlink()
