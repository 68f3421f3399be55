"""SimCLR, MoCo and BYOL: two views of each row, key encoders and targets forward only;
and deep clustering by the same network on one view, or on the row as it is.

ResNet-50 on 224 x 224 is 8.2 GFLOP a view, and cropping and blurring it another 0.3.
In a step SimCLR runs the net on two views; MoCo on one, and its key encoder on the
other; BYOL both networks on both.
"""

import itertools
import math
from collections.abc import Mapping

from vlp_jax import resolve
from vlp_jax.costs import contrast, families, flops, towers, views
from vlp_jax.costs.towers import sound

MODELS = ("siamese",)
# Objective -> (views that the network sees, those that its teacher sees, heads read)
READS = {
  "simclr:simclr": ((0, 1), (), ("projector",)),
  "moco:moco": ((0,), (1,), ("projector",)),
  "byol:byol": ((0, 1), (0, 1), ("projector", "predictor")),
  "cluster:sdc": ((0,), (), ("clusters",)),
}
PLAIN = ((0,), (), ("projector", "predictor", "clusters"))


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; "teacher/..." are those of the slow copy.

  MoCo's products with its queue are left out, a thousandth of the whole.
  """
  name, rows = families.known(objective, READS), families.rows(batch)
  own, slow, heads = READS.get(name, PLAIN)
  settings, out = _views(objective), {}
  if _stream(model) != "audio":
    shape, made = _frames(model, batch), [settings[i] for i in {*own, *slow}]
    if cost := sum(views.pixels(v, shape) for v in made if v):
      out["views"] = rows * cost
  for prefix, seen in (("", own), ("teacher/", slow)):
    for view in seen:
      net, mel = _tower(model, batch, settings[view].get("size"))
      # A teacher has no head beside its projector.
      costs = _heads(model, net.features, heads[:1] if prefix else heads)
      parts = net.scaled(rows, "tower") | {k: rows * x for k, x in costs.items()}
      if mel:
        parts["mel"] = rows * mel
      for k, x in parts.items():
        out[prefix + k] = out.get(prefix + k, 0.0) + x
  if name == "simclr:simclr":
    out[families.LOSS] = contrast.scores(2 * rows, 2 * rows, model.projector["dim"])
  return out


def _heads(model, width, read) -> dict[str, float]:
  """FLOPs of a row in the heads that are read."""
  out = {}
  if "projector" in read:
    out["projector"] = _mlp(model.projector, width)
  if "predictor" in read and model.predictor:
    out["predictor"] = _mlp(model.predictor, model.projector["dim"])
  if "clusters" in read and model.clusters:
    out["clusters"] = flops.linear(1, width, model.clusters)
  return out


def _views(objective) -> tuple[Mapping, Mapping]:
  """Settings of both views; {} leaves a batch as it is."""
  given = None if objective is None else objective.keywords["views"]
  if given is None:
    return {}, {}
  return (given, given) if isinstance(given, Mapping) else tuple(given)


def _stream(model) -> str:
  return families.source(model).TOWERS[model.tower][0]


def _frames(model, batch) -> tuple[int, ...]:
  """[T,] H, W of what views are made of; a tower of pictures takes clips of one."""
  still = _stream(model) == "image"
  if still and "image_pixels" in batch:
    return tuple(batch["image_pixels"].shape[1:3])
  return tuple(batch["video_frames"].shape[2 if still else 1 : 4])


def _tower(model, batch, size):
  """(the tower on one view, FLOPs of its mel filters)."""
  stream, cls, own = families.source(model).TOWERS[model.tower]
  tower = resolve.bind(cls, dict(own) | dict(model.tower_args))()
  if stream == "audio":
    heard = sound.spectrogram(model.front_end, batch["audio_samples"].shape[1])
    return towers.count(tower, (heard.frames, heard.bins), 1), heard.flops
  *frames, height, width = _frames(model, batch)
  square = (size, size) if size else (height, width)
  return towers.count(tower, (*frames, *square), 3), 0.0


def _mlp(given, width) -> float:
  """`heads.mlp.Mlp` on one vector."""
  hidden, depth = given.get("hidden", 0) or width, given.get("depth", 2)
  sizes = [width, *[hidden] * (depth - 1), given["dim"]]
  return math.fsum(flops.linear(1, a, b) for a, b in itertools.pairwise(sizes))


def frozen(model, objective) -> list[str]:
  return ["teacher", "views", "mel"]


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  rows = 2 * families.rows(batch)
  return contrast.gathered(rows, model.projector["dim"], shards)
