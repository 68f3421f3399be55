"""BERT's parts in PyTorch's layout as ours: transposed, split into heads, stacked.

Each function returns {path below the module: array}. Linear `weight` is [out, in] there
and `kernel` [in, out] here.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.importers import Source

Arrays = dict[str, np.ndarray]


def under(path: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
  """The same arrays one level down."""
  return {f"{path}/{k}": x for k, x in arrays.items()}


def linear(source: Source, name: str) -> Arrays:
  """`name.weight` [out, in] and `name.bias`, where there is one."""
  out = {"kernel": source.take(f"{name}.weight").T}
  if f"{name}.bias" in source:
    out["bias"] = source.take(f"{name}.bias")
  return out


def norm(source: Source, name: str) -> Arrays:
  """LayerNorm."""
  return {
    "scale": source.take(f"{name}.weight"),
    "bias": source.take(f"{name}.bias"),
  }


def transform(source: Source, dense: str, norm_name: str) -> Arrays:
  """The first half of a prediction head: `dense.Transform`."""
  return under("dense", linear(source, dense)) | under("norm", norm(source, norm_name))


def heads_in(parts: list[Arrays], num_heads: int) -> Arrays:
  """Projections [D, N d] to one kernel [D, parts, N, d], bias [parts, N, d]."""
  split = lambda x: x.reshape(*x.shape[:-1], num_heads, -1)
  return {
    "kernel": np.stack([split(p["kernel"]) for p in parts], axis=1),
    "bias": np.stack([split(p["bias"]) for p in parts], axis=0),
  }


def heads_out(part: Arrays, num_heads: int) -> Arrays:
  """An output projection [N d, D] to [N, d, D]."""
  kernel = part["kernel"]
  return {**part, "kernel": kernel.reshape(num_heads, -1, kernel.shape[-1])}


def packed_attention(source: Source, name: str, num_heads: int) -> Arrays:
  """Cross-attention with `in_proj_weight` [3 D, D]: queries, then keys and values."""
  weight = np.split(source.take(f"{name}.in_proj_weight"), 3)
  bias = np.split(source.take(f"{name}.in_proj_bias"), 3)
  q, k, v = ({"kernel": w.T, "bias": b} for w, b in zip(weight, bias, strict=True))
  back = heads_out(linear(source, f"{name}.out_proj"), num_heads)
  parts = {"q": heads_in([q], num_heads), "kv": heads_in([k, v], num_heads)}
  return under("q", parts["q"]) | under("kv", parts["kv"]) | under("out", back)


def block(source: Source, name: str, num_heads: int) -> Arrays:
  """One `transformer.Block` out of `name.attention`, `.intermediate`, `.output`."""
  inner = f"{name}.attention.self"
  parts = [linear(source, f"{inner}.{k}") for k in ("query", "key", "value")]
  back = linear(source, f"{name}.attention.output.dense")
  return (
    under("attention/qkv", heads_in(parts, num_heads))
    | under("attention/out", heads_out(back, num_heads))
    | under("attention_norm", norm(source, f"{name}.attention.output.LayerNorm"))
    | under("mlp_in", linear(source, f"{name}.intermediate.dense"))
    | under("mlp_out", linear(source, f"{name}.output.dense"))
    | under("mlp_norm", norm(source, f"{name}.output.LayerNorm"))
  )


def stack(source: Source, name: str, depth: int, num_heads: int) -> Arrays:
  """`transformer.Stack` out of `name.0` to `name.{depth - 1}`, [depth, ...] each.

  Raises: ValueError when the checkpoint has more layers than the model.
  """
  if source.has(f"{name}.{depth}."):
    raise ValueError(f"the checkpoint has more than the model's {depth} layers.")
  blocks = [block(source, f"{name}.{i}", num_heads) for i in range(depth)]
  return {f"layers/{k}": np.stack([b[k] for b in blocks]) for k in blocks[0]}
