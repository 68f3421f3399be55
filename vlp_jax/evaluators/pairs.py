"""Pairs of two streams over a whole set: partners on the host, scores on the device."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import wide


class Pairs:
  """Encodes both streams once, then scores any pairs of them.

  Args:
    apply: of a model with both encoders in `__call__` and the method `score`.
    outputs: of picture and sound, what `score` reads.
    keys: more outputs or batch keys to keep; optional ones may be missing.
    chunk: pairs that are scored at a time.
  """

  def __init__(
    self,
    apply: Callable,
    outputs: tuple[str, str],
    *,
    keys: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    chunk: int = 256,
  ):
    self.video, self.audio = outputs
    self.chunk = chunk

    def encode(variables, batch, *, train=False, method=None):
      out, mutable = apply(variables, batch, train=train, method=method)
      there = batch["video_mask"].any(-1) & batch["audio_mask"].any(-1)
      return dict(out) | {"there": there}, mutable

    self.forward = collect.Forward(
      encode, (*outputs, "there", *keys), optional=("group_id", *optional)
    )

    def score(variables, rows):
      out = apply(variables, rows, train=False, method="score")[0]
      return {k: wide(x) for k, x in out.items()}

    self._score = jax.jit(score)

  def encode(self, variables, batches: Iterable[Mapping]) -> dict[str, np.ndarray]:
    """All rows with picture and sound; `group_id` is there in any case."""
    out = self.forward(variables, batches)
    there = out.pop("there").astype(bool)
    if not there.any():
      raise ValueError("no row has picture and sound.")
    out.setdefault("group_id", np.arange(len(there)))
    return {k: x[there] for k, x in out.items()}

  def score(
    self, variables, out: Mapping, audio_at: np.ndarray, keys: tuple[str, ...]
  ) -> dict[str, np.ndarray]:
    """Outputs `keys` of `score` for picture i with sound audio_at[i]."""
    n, found = len(audio_at), {k: [] for k in keys}
    for start in range(0, n, self.chunk):
      rows = np.arange(start, start + self.chunk) % n  # filled up: one shape
      pair = {
        self.video: out[self.video][rows],
        self.audio: out[self.audio][audio_at[rows]],
      }
      got = self._score(variables, {k: jnp.asarray(x) for k, x in pair.items()})
      for k in keys:
        found[k].append(np.asarray(got[k]))
    return {k: np.concatenate(x)[:n] for k, x in found.items()}


def yes(logits: np.ndarray) -> np.ndarray:
  """[n] of logits [n], or of [n, 2] (no, yes): above 0 means that they belong."""
  logits = logits.astype(np.float64)
  return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]


def others(group: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """A row of another group for each row, no row twice: (partner [n], found [n]).

  Groups lie in random order on a circle that is turned by half; rows of a group that
  holds more than half of all find none.
  """
  ids, of = np.unique(group, return_inverse=True)
  order = np.argsort(
    np.random.default_rng(seed).permutation(len(ids))[of], kind="stable"
  )
  partner = np.empty(len(group), int)
  partner[order] = np.roll(order, len(order) // 2)
  return partner, group[partner] != group


def other_windows(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The window of the same group that is half of its windows further on.

  Returns: (partner [n], found [n]); a group of one row has no other window.
  """
  partner = np.arange(len(group))
  for g in np.unique(group):
    mine = np.flatnonzero(group == g)
    partner[mine] = np.roll(mine, -(len(mine) // 2))
  return partner, partner != np.arange(len(group))
