"""The steps that benchmarks share: UNITER on drawn batches, with the real train step.

Words and regions are drawn, every place is real. The word table is small: a large one
would only weigh in the optimiser. The default objective is matching with given labels,
which any implementation of the network can share.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vlp_jax import optim, resolve, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.objectives import contrastive, match
from vlp_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class Size:
  """A network and its batch; all that an implementation of the step has to know."""

  width: int = 256
  depth: int = 4
  num_heads: int = 4
  rows: int = 16
  words: int = 24
  regions: int = 40
  region_dim: int = 2048
  vocab_size: int = 1000
  dropout: float = 0.1


SIZES = {
  "mini": Size(64, 2, 2, rows=2, words=4, regions=4, region_dim=16, vocab_size=50),
  "tiny": Size(),
  "base": Size(768, 12, 12, rows=8, words=15, regions=39),
}
ADAMW = dict(name="adamw", lr=1e-4, wd=0.01, total_steps=10_000)
itm = functools.partial(match.itm, negatives="given", wra_coef=0.0)
pooled = functools.partial(itm, method="pooled")  # the same loss for less work


def vocab(size: int) -> Vocab:
  return Vocab(size, 0, 1, 2, 3, 4, (0, 1, 2, 3, 4), (5, size))


def batch(size: Size, seed: int = 0) -> dict[str, np.ndarray]:
  """A batch of that size; the words of a row with its regions are `match` or not."""
  rng = np.random.default_rng(seed)
  rows, words, regions = size.rows, size.words, size.regions
  features = rng.standard_normal((rows, regions, size.region_dim), np.float32)
  return {
    "text_ids": rng.integers(5, size.vocab_size, (rows, words), np.int32),
    "text_mask": np.ones((rows, words), bool),
    "regions_features": features,
    "regions_boxes": rng.random((rows, regions, 7), np.float32),
    "regions_mask": np.ones((rows, regions), bool),
    "match": rng.integers(0, 2, rows, np.int32),
    "example_id": np.arange(rows, dtype=np.int32),
    "example_mask": np.ones(rows, bool),
  }


def model(size: Size, *, heads: tuple[str, ...] = ("itm",), **more) -> Any:
  """`models.uniter` of that size."""
  own = ("width", "depth", "num_heads", "region_dim", "dropout", "vocab_size")
  given = {k: getattr(size, k) for k in own} | dict(heads=heads) | more
  return resolve.model(dict(name="uniter", **given))


@dataclasses.dataclass
class Training:
  """A step, and what it is called with; `run` takes the next one.

  Attributes:
    abstract: shapes and shardings of the state; `make()` makes one.
    batch: on the mesh.
  """

  step: Callable
  make: Callable[[], Any]
  abstract: Any
  batch: dict[str, jax.Array]
  key: jax.Array
  state: Any = None

  def run(self, steps: int = 1) -> None:
    """Takes steps and waits for the last."""
    if self.state is None:
      self.state = self.make()
    for _ in range(steps):
      self.state, means = self.step(self.state, self.batch, self.key)
    jax.block_until_ready(means)

  def lowered(self) -> jax.stages.Lowered:
    return self.step.lower(self.abstract, self.batch, self.key)


def training(
  size: Size,
  *,
  objective: Callable = itm,
  devices: int = 1,
  micro: int = 1,
  net: Any = None,
) -> Training:
  """The real step of UNITER at that size, with AdamW, on the first `devices`.

  Args:
    net: the model; `model(size)` when None.
  """
  net = model(size) if net is None else net
  return _training(net, batch(size), objective, devices, micro)


def clips(variant: str = "quick", rows: int = 2) -> Training:
  """The same of MIL-NCE: eight frames of 64 x 64, two narrations of six words."""
  rng = np.random.default_rng(0)
  net = resolve.model(dict(name="mil_nce", variant=variant, vocab_size=100))
  drawn = {
    "video_frames": rng.integers(0, 256, (rows, 8, 64, 64, 3), np.uint8),
    "video_mask": np.ones((rows, 8), bool),
    "narration_ids": rng.integers(5, 100, (rows, 2, 6), np.int32),
    "narration_mask": np.ones((rows, 2, 6), bool),
    "example_id": np.arange(rows, dtype=np.int32),
    "example_mask": np.ones(rows, bool),
  }
  return _training(net, drawn, contrastive.mil_nce, 1, 1)


def _training(net, drawn, objective, devices, micro):
  mesh = sharding.mesh(None, jax.devices()[:devices])
  make, abstract, shardings, tx = state_lib.init(
    net, lambda p: optim.build(p, **ADAMW), mesh
  )
  step = step_lib.build(
    objective,
    apply=state_lib.make_apply(net),
    tx=tx,
    mesh=mesh,
    shardings=shardings,
    micro=micro,
  )
  key = jax.device_put(jax.random.key(0), sharding.replicated(mesh))
  return Training(step, make, abstract, sharding.put(drawn, mesh), key)
