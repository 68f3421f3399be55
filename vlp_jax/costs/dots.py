"""Matmuls and convolutions of a program by the type of their inputs.

Read from StableHLO (`jit(f).lower(*args).as_text()`): what was asked for, before the
compiler changes it. A float32 matmul where bfloat16 was meant shows here.
"""

import math
import re
from typing import Any

_OP = re.compile(
  r"stablehlo\.(dot_general|convolution)\b(.*?):\s*"
  r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
)
_CONTRACT = re.compile(r"contracting_dims = \[([\d, ]*)\] x")
_KERNEL = re.compile(r"x\[([\w, ]+)\]->")


def _shape(text: str) -> tuple[list[int], str]:
  *sizes, dtype = text.split("x")
  return [int(n) for n in sizes], dtype


def by_dtype(text: str) -> dict[str, dict[str, Any]]:
  """{dtype: {count, flops, largest}} of a lowered program.

  Args:
    text: StableHLO. The body of a loop counts once, as in XLA's own analysis.
  Returns: by the wider type of the two inputs, "bf16", "f32", ...; FLOPs of the whole
    program before partitioning; `largest` is the result's shape of the one with most.
  """
  out, most = {}, {}
  for kind, attributes, left, right, result in _OP.findall(text):
    (a, a_type), (b, b_type), (c, _) = map(_shape, (left, right, result))
    if kind == "dot_general":
      at = [int(i) for i in _CONTRACT.search(attributes)[1].split(",") if i.strip()]
      inner = math.prod(a[i] for i in at)
    else:
      names = [n.strip() for n in _KERNEL.search(attributes)[1].split(",")]
      inner = math.prod(n for n, name in zip(b, names, strict=True) if name != "o")
    dtype = max((a_type, b_type), key=lambda t: int(re.sub(r"\D", "", t) or 0))
    one = out.setdefault(dtype, {"count": 0, "flops": 0, "largest": []})
    flops = 2 * math.prod(c) * inner
    one["count"], one["flops"] = one["count"] + 1, one["flops"] + flops
    if flops > most.get(dtype, -1):
      most[dtype], one["largest"] = flops, c
  return out
