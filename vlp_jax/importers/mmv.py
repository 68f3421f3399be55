"""Released MMV weights (deepmind-research, `mmv_s3d.pkl`, `mmv_tsm_resnet_x1|x2.pkl`).

A pickle of {"params": ..., "state": ...}, each {module path: {name: array}}, read by
`formats.read` without running it. Kernels have our layout already; scales, offsets
and averages lose their axes of length 1; the state's `average` is the debiased one that
is used at test time. The S3D file wants the folded stem (variant "s3d"). Which word has
which row of the table was never published. Licence of the files: CC BY-NC 4.0.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from vlp_jax.importers import Report, Source, all_shapes, finish

ROOT = "text_audio_video"
_BN = "__batch_norm"
_S3D = {
  "conv1": "Conv2d_1a_7x7",
  "conv_2b": "Conv2d_2b_1x1",
  "conv_2c": "Conv2d_2c_3x3",
  "conv_b0": "Branch_0_Conv2d_0a_1x1",
  "conv_b1_a": "Branch_1_Conv2d_0a_1x1",
  "conv_b1_b": "Branch_1_Conv2d_0b_3x3",
  "conv_b2_a": "Branch_2_Conv2d_0a_1x1",
  "conv_b2_b": "Branch_2_Conv2d_0b_3x3",
  "conv_b3_b": "Branch_3_Conv2d_0b_1x1",
}
_GATES = {
  "gating": "Conv2d_2c_3x3",
  "gating_b0": _S3D["conv_b0"],
  "gating_b1": _S3D["conv_b1_b"],
  "gating_b2": _S3D["conv_b2_b"],
  "gating_b3": _S3D["conv_b3_b"],
}
_HEADS = {
  "video_to_audio": "vid2audio_embd",
  "video_to_text": "vis_embd",
  "audio_to_video": "audio_embd",
  "audio_to_text": "audio2txt_embd",
  "text_to_video": "txt_embd",
  "text_to_audio": "txt2audio_embd",
}
UNTRAINED = ("audio_to_text", "text_to_audio")  # made at init, used by no loss
# Our last name -> theirs; of running statistics with the folder of the average.
_LEAVES = {
  "kernel": "w",
  "bias": "b",
  "scale": "scale",
  "mean": "mean_ema/average",
  "var": "var_ema/average",
}


def convert(arrays: Mapping[str, np.ndarray], model) -> tuple[dict, Report]:
  """Variables of `models.mmv.Model(graph="fac")`.

  Args:
    arrays: by "params/<module>/<name>" and "state/<module>/<name>".
    model: of the variant and vocabulary of the checkpoint (65,536 words).
  Returns: ({"params", "batch_stats"}, report). The two untrained heads may be missing.
  Raises: ValueError for a missing, unknown or wrongly shaped entry.
  """
  source, want = read(arrays), all_shapes(model)
  flat = fill(source, want, published)
  spare = [rf"params/{name}/" for name in UNTRAINED]
  tree, report = finish(
    flat, want, source, reshaped=_squeezed(flat), may_miss=spare, may_leave=(COUNTERS,)
  )
  return tree["params"], report


# What the state holds beside the averages, and what a pickle may say beside arrays.
COUNTERS = r"state/.*_ema/(hidden|counter)$"


def read(arrays: Mapping[str, np.ndarray]) -> Source:
  """The published entries under one spelling of Haiku's paths and BatchNorms."""
  source = Source(arrays)
  source.rename(r"/~(_get_pair_embedding_heads)?(?=/)", "")
  source.rename("__cross_replica_batch_norm", _BN)
  return source


def fill(
  source: Source, want: Mapping[str, tuple], name_of: Callable[[str], str]
) -> dict[str, np.ndarray]:
  """Our path -> array, of all that the source has."""
  flat = {}
  for path, shape in want.items():
    name = name_of(path)
    if name in source:
      x = source.take(name)
      # (1, 1, 1, 1, C) of BatchNorm and (1, 300, D) of the layer over words.
      flat[path] = x.reshape(shape) if _bare(x.shape) == _bare(shape) else x
  return flat


def _bare(shape):
  return tuple(n for n in shape if n != 1)


def _squeezed(flat):
  return [k for k in flat if k.endswith(("/scale", "/mean", "/var", "fc1/kernel"))]


def published(path: str) -> str:
  """Our `params/video_tower/conv1/bn1/scale` in their words, without `/~`."""
  group, tower, *middle, leaf = path.split("/")
  bn = bool(middle) and re.search(
    r"(^|_)bn(\d|_\d)?$", middle[-1]
  )  # bn1, bn_0, inner_bn
  if tower == "video_tower":
    parts = _tsm(middle) if middle[0] == "trunk" else _s3d(middle)
    parts = ["visual_module", *parts]
  elif tower == "audio_tower":
    parts = ["audio_module", "res_net_v2", *_audio(middle)]
  elif tower == "text_tower":
    table = leaf == "words"
    parts = ["text_module", "embed" if table else "text_conv1"]
    leaf = "embeddings" if table else leaf
  else:
    parts = [_HEADS[tower], _head(tower, middle[0])]
  name = "offset" if bn and leaf == "bias" else _LEAVES.get(leaf, leaf)
  kind = "state" if group == "batch_stats" else "params"
  return "/".join([kind, ROOT, *parts, name])


def _nth(name, k):
  return name if k == 0 else f"{name}_{k}"


def _s3d(middle):
  *places, last = middle
  if last == "fc":
    *outer, gate = places
    return ["S3D", *(p.capitalize() for p in outer), _GATES[gate], "self_gating"]
  *outer, place = places
  kind, k = re.fullmatch(r"(conv|bn)(\d)", last).groups()
  layer = _nth("conv3_d" if kind == "conv" else _BN, int(k) - 1)
  return ["S3D", *(p.capitalize() for p in outer), _S3D[place], layer]


def _unit(names, group):
  """unit_1_block_2/conv_0 as <group>_1/block_2/conv_0, the BatchNorms by order."""
  unit, block = re.fullmatch(r"unit_(\d)_block_(\d+)", names[0]).groups()
  layer = re.sub(r"^bn_(\d)$", lambda m: _nth(_BN, int(m[1])), names[1])
  return [f"{group}_{unit}", f"block_{block}", layer]


def _tsm(middle):
  if len(middle) == 3:
    return ["TSMResNetV2", *_unit(middle[1:], "tsm_resnet_unit")]
  return ["TSMResNetV2", {"stem": "tsm_resnet_stem", "bn": _BN}[middle[1]]]


def _audio(middle):
  if len(middle) == 3:
    return _unit(middle[1:], "block_group")
  return [{"stem": "initial_conv", "bn": _BN}[middle[1]]]


def _head(head, layer):
  """Of two BatchNorms the inner one came first."""
  if layer == "final_bn":
    return _nth(_BN, 1 if head == "video_to_audio" else 0)
  return {
    "inner": "final_projection_inner",
    "final": "final_projection",
    "inner_bn": _BN,
  }[layer]
