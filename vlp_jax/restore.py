"""Reading checkpoints: the newest valid one, onto any mesh, or as plain numpy.

Arrays are saved flat, {"params/encoder/kernel": array}; see `vlp_jax.checkpoint`.
"""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vlp_jax import manifest, snapshot, workdir
from vlp_jax.errors import CheckpointError

log = logging.getLogger(__name__)
EXPORT = "variables.npz"  # what an export has in place of state/


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
  """{"params/encoder/kernel": x} as dicts of dicts."""
  out = {}
  for path, x in named.items():
    *parents, last = path.split("/")
    at = out
    for parent in parents:
      at = at.setdefault(parent, {})
    at[last] = x
  return out


def numbered(root: epath.Path) -> list[epath.Path]:
  """The step directories in `checkpoints/`, finished or not, in order."""
  found = root.iterdir() if root.exists() else ()
  return sorted((p for p in found if p.name.isdecimal()), key=lambda p: int(p.name))


def newest(root: epath.Path) -> int:
  """The last step whose every file fits its hash; -1 when there is no step at all.

  Raises: CheckpointError, which names a damaged file of each, when none is valid.
  """
  found = []
  for path in numbered(root):
    if manifest.committed(path):
      found.append(path)
    else:
      log.warning("%s is empty or was never finished; it is ignored.", path)
  wrong = []
  for path in reversed(found):
    try:
      manifest.verify(path)
      return int(path.name)
    except CheckpointError as error:
      log.warning("checkpoint %s is not used: %s", path.name, error)
      wrong.append(str(error))
  if wrong:
    raise CheckpointError(
      f"none of {len(wrong)} checkpoints is valid: {' '.join(wrong)}"
    )
  return -1


def same_meaning(path: str | os.PathLike, identities: Mapping[str, Any]) -> None:
  """Raises CheckpointError unless ids mean here what they meant in the run that saved.

  Args:
    path: a checkpoint, an export, or a workdir, of which the last step is looked at.
    identities: `snapshot.identities` of this run. What only one of both has is no
      difference.
  """
  directory = workdir.root(path)
  if not manifest.committed(directory):
    steps = [p for p in numbered(directory / "checkpoints") if manifest.committed(p)]
    if not steps:
      return  # reading the arrays says it better
    directory = steps[-1]
  for name, old in workdir.read_json(directory / "vocab.json").items():
    new = identities.get(name, old)
    if new != old:
      raise CheckpointError(
        f"{name} of {os.fspath(directory)} has {old['size']} entries, sha256 "
        f"{old['digest']}; this run's has {new['size']}, sha256 {new['digest']}. Use "
        "the same one, or say that another is meant (override)."
      )


def holds(path: str | os.PathLike) -> bool:
  """Whether a path is a workdir with a checkpoint, a checkpoint or an export."""
  directory = workdir.root(path)
  steps = numbered(directory / "checkpoints")
  return manifest.committed(directory) or any(map(manifest.committed, steps))


def into(directory: epath.Path, body: Mapping[str, Any], abstract: Any) -> Any:
  """The state of a verified checkpoint in the structure of `abstract`.

  Args:
    body: the manifest. abstract: tree of jax.ShapeDtypeStruct; with shardings, which
      need not be those of the save, the arrays are read straight to their devices.
  Raises: CheckpointError when paths, shapes or dtypes differ: orbax by itself would
    cast a dtype without a word.
  """
  want = snapshot.flat(abstract)
  differ = manifest.compare(body["leaves"], snapshot.leaves(want))
  if differ:
    model = workdir.read_json(directory / "config.json").get("model")
    raise CheckpointError(
      f"{os.fspath(directory)} is of another model or optimiser: {differ}. It was "
      f"saved with model={model}; {os.fspath(directory / 'config.json')} fits it."
    )
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  at = {k: getattr(x, "sharding", None) or here for k, x in want.items()}
  sizes = {k: x for k, x in want.items() if np.prod(x.shape)}
  args = {
    k: ocp.ArrayRestoreArgs(sharding=at[k], global_shape=x.shape, dtype=x.dtype)
    for k, x in sizes.items()
  }
  got = _read(directory, args)
  for k in want.keys() - sizes.keys():  # orbax keeps no empty array
    got[k] = jax.device_put(np.zeros(want[k].shape, want[k].dtype), at[k])
  return jax.tree.unflatten(jax.tree.structure(abstract), [got[k] for k in want])


def _read(directory, args) -> dict[str, Any]:
  """The arrays named in `args` from `directory/state`."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as reader:
    wanted = ocp.args.PyTreeRestore(
      item=dict.fromkeys(args, 0), restore_args=args, partial_restore=True
    )
    try:
      return dict(reader.restore(directory / "state", args=wanted))
    except (OSError, ValueError, KeyError) as error:
      text = " ".join(str(error).split())[:500]
      raise CheckpointError(f"{os.fspath(directory)} cannot be read: {text}") from error


def latest(path: str | os.PathLike) -> epath.Path:
  """The directory of an export, a checkpoint, or of a workdir's newest valid one.

  Its hashes were checked. Raises: CheckpointError when there is nothing, or nothing
  valid.
  """
  directory = workdir.root(path)
  if manifest.committed(directory):
    manifest.verify(directory)
    return directory
  steps = directory / "checkpoints"
  step = newest(steps)
  if step < 0:
    raise CheckpointError(
      f"{os.fspath(directory)} is no workdir with a checkpoint, no checkpoint and no "
      f"export: no {manifest.NAME}, no checkpoints/<step>/{manifest.NAME}."
    )
  return steps / str(step)


def load_variables(
  path: str | os.PathLike, *, average: bool = False
) -> dict[str, dict[str, Any]]:
  """{"params": ..., other collections} as numpy arrays, checked by their hashes.

  Args:
    path: a workdir (its newest valid checkpoint), one checkpoint, or an export.
    average: the averaged parameters that the optimizer kept (`optim.ema`) as params.
  Raises: CheckpointError when there is nothing, or nothing valid.
  """
  directory = latest(path)
  body = manifest.read(directory)
  mean = re.compile(r"^opt_state/(?:[^/]+/)*?ema/")
  names = {k: k for k in body["leaves"] if k.startswith(("params/", "mutable/"))}
  if average:
    means = {k: mean.sub("params/", k) for k in body["leaves"] if mean.search(k)}
    if not means:
      raise CheckpointError(f"{os.fspath(directory)} keeps no averaged parameters.")
    names = {k: v for k, v in names.items() if not k.startswith("params/")} | means
  shapes = {k: body["leaves"][k] for k in names}
  if (directory / EXPORT).exists():
    with (directory / EXPORT).open("rb") as f, np.load(f, allow_pickle=False) as z:
      got = {k: z[k] for k in names}
  else:
    full = [k for k, (shape, _) in shapes.items() if np.prod(shape)]
    got = _read(directory, {k: ocp.RestoreArgs(restore_type=np.ndarray) for k in full})
  for k in names.keys() - got.keys():
    got[k] = np.zeros(shapes[k][0], jnp.dtype(shapes[k][1]))
  # The collections of `mutable` stand beside the parameters, as apply wants them.
  renamed = {names[k].removeprefix("mutable/"): x for k, x in got.items()}
  return {"params": {}} | nested(renamed)


def export(
  directory: str | os.PathLike,
  variables: Mapping[str, Any],
  *,
  config: Mapping[str, Any],
  identities: Mapping[str, Any] | None = None,
) -> None:
  """Writes parameters and collections as one npz that `load_variables` reads.

  bfloat16 arrays, which npz does not know, are stored as float32, exactly.
  Raises: CheckpointError when the directory holds something already.
  """
  at = workdir.root(directory)
  if at.exists() and any(at.iterdir()):
    raise CheckpointError(f"{os.fspath(at)} is not empty; export to a new directory.")
  at.mkdir(parents=True, exist_ok=True)
  tree = {k: v for k, v in variables.items() if k != "params"}
  named = snapshot.flat({"params": variables["params"], "mutable": tree})
  plain = lambda x: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x
  named = {k: plain(np.asarray(x)) for k, x in named.items()}
  with (at / EXPORT).open("wb") as f:
    np.savez(f, **named)
  workdir.write_text(at / "config.json", workdir.dumps(config))
  workdir.write_text(at / "vocab.json", workdir.dumps(identities or {}))
  manifest.commit(at, dict(step=0, leaves=snapshot.leaves(named), metrics={}))
