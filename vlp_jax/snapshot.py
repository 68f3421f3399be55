"""A state as a flat dictionary of arrays, ready to be saved behind the loop's back."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def flat(tree: Any) -> dict[str, Any]:
  """{"params/encoder/kernel": leaf} of any tree; empty subtrees leave no trace."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  found = jax.tree_util.tree_flatten_with_path(tree)[0]
  out = {name(path): x for path, x in found}
  assert len(out) == len(found), "two leaves of a state have one path"
  return out


def leaves(named: Mapping[str, Any]) -> dict[str, Any]:
  """{path: [shape, dtype name]}, as a manifest holds it."""
  return {k: [list(x.shape), jnp.dtype(x.dtype).name] for k, x in named.items()}


def array(x: Any) -> jax.Array | np.ndarray:
  """A leaf as an array; numpy for plain numbers. TypeError for a random key."""
  x = x if isinstance(x, jax.Array) else np.asarray(x)
  if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    raise TypeError("a random key in the state: derive keys from seed and step.")
  return x


def identities(
  vocab: Any,
  labels: Mapping[str, Sequence[str]] | None,
  trees: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
  """{name: digest and size} of what gives ids their meaning.

  Args:
    vocab: with `digest` and `size`; left out when it is None or has no digest.
    labels: {name: words in the order of their ids}, as answer lists are.
    trees: {name: tree with `digest` and `size`}, of video tokens.
  """
  out = {}
  for name, words in (labels or {}).items():
    code = hashlib.sha256("\0".join(words).encode())
    out[name] = dict(digest=code.hexdigest(), size=len(words))
  if vocab is not None and vocab.digest:
    out["vocabulary"] = dict(digest=vocab.digest, size=vocab.size)
  for name, tree in (trees or {}).items():
    out[name] = dict(digest=tree.digest, size=tree.size)
  return out


class Still(np.ndarray):
  """A view of a buffer that nobody writes: orbax, which copies numpy arrays before it
  writes them, need not copy this one. Those copies held the loop for up to 0.2 s, and
  were a second state in memory."""

  def __deepcopy__(self, memo):
    return self


def copies(flat: Mapping[str, Any]) -> dict[str, Any] | None:
  """What a thread may save while the loop donates the state, or None.

  orbax itself blocks for about 0.2 ms an array and for the way to the host. On CPU
  numpy views do: JAX donates no buffer that has one. On accelerators it is copies on
  the device. None, for orbax's own way, where there is no room for those, for arrays
  over several CPU devices, and with several processes, whose saves must be in step.
  """
  device, arrays = jax.local_devices()[0], [x for x in flat.values() if _on_device(x)]
  if jax.process_count() > 1:
    return None
  if device.platform == "cpu":
    one = all(len(x.sharding.device_set) == 1 for x in arrays)
    still = lambda x: np.asarray(x).view(Still) if _on_device(x) else np.array(x)
    return {k: still(x) for k, x in flat.items()} if one else None
  shard = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  stats = device.memory_stats() or {}
  free = stats.get("bytes_limit", 0) - stats.get("peak_bytes_in_use", 0)
  return duplicate(flat) if 1.1 * sum(map(shard, arrays)) < free else None


def _on_device(x) -> bool:
  return isinstance(x, jax.Array)


def duplicate(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Copies of all jax arrays where they are; returns before they are made."""
  on = {k: x for k, x in flat.items() if _on_device(x)}
  return dict(flat) | jax.device_put(
    on, {k: x.sharding for k, x in on.items()}, may_alias=False
  )
