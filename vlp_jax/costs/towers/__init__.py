"""FLOPs of convolutional towers by formula, out of the numbers of a linen module.

Nothing is bound or traced: the attributes of an unbound tower say all. A multiply-add
is 2; see `costs.flops`. Places are those that come out, and zeros of the padding count
as data, as in published counts.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vlp_jax import resolve
from vlp_jax.errors import UserError


class Net(NamedTuple):
  """A tower run on one example.

  parts: {stage: FLOPs}. places: of the last map, [T,] H, W. width: its channels.
  features: width of what comes out.
  """

  parts: dict[str, float]
  places: tuple[int, ...]
  width: int
  features: int

  @property
  def flops(self) -> float:
    return sum(self.parts.values())

  def scaled(self, rows: float, name: str) -> dict[str, float]:
    """Its parts under "name/", of `rows` examples."""
    return {f"{name}/{k}": rows * x for k, x in self.parts.items()}


def places(
  sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], padding: str
) -> tuple[int, ...]:
  """Places of a convolution or pool; padding as in `layers.conv2d.pads`."""
  axes = list(zip(sizes, window, strides, strict=True))
  if padding == "tf":
    return tuple(-(-n // s) for n, _, s in axes)
  around = 0 if padding == "valid" else 1
  return tuple((n + around * 2 * (k // 2) - k) // s + 1 for n, k, s in axes)


def count(tower: Any, sizes: Sequence[int], channels: int) -> Net:
  """The formulas of a tower.

  Args:
    tower: unbound linen module of `vlp_jax.towers`.
    sizes: of one example, T, H, W of a clip or H, W of a picture or spectrogram.
    channels: of the input.
  Raises: UserError for a tower without formulas.
  """
  from vlp_jax.costs.towers import plain, r2plus1d, resnets, s3d

  known: Mapping[str, Callable] = {
    "S3D": s3d.count,
    "I3D": s3d.count,
    "TSMResNet": resnets.tsm,
    "ImageResNet": resnets.image,
    "AudioResNet": resnets.audio,
    "AudioResNet18": resnets.audio18,
    "R2Plus1D": r2plus1d.count,
    "L3": plain.l3,
    "AudioVGG": plain.vgg,
    "Spectrogram": plain.spectrogram,
  }
  name = type(tower).__name__
  if name not in known:
    raise UserError(
      f"no FLOPs formula for tower {name!r}.{resolve.nearest(name, known)}"
    )
  return known[name](tower, tuple(sizes), channels)


def alike(cls: type, model: Any, **own: Any) -> Any:
  """A tower of that class with the fields that it shares with the model, over `own`."""
  names = lambda x: {f.name for f in dataclasses.fields(x)}
  shared = (names(cls) & names(model)) - {"parent", "name", "dtype"}
  return cls(**{k: getattr(model, k) for k in shared} | own)
