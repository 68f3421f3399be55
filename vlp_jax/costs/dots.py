"""Matmuls and convolutions of a program: what was asked for, and what is executed.

`by_dtype` reads StableHLO (`jit(f).lower(*args).as_text()`), before the compiler
changes it: a float32 matmul where bfloat16 was meant shows there. `executed` reads the
compiled module, with loops as often as they run.
"""

import functools
import math
import re
from typing import Any

_OP = re.compile(
  r"stablehlo\.(dot_general|convolution)\b(.*?):\s*"
  r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
)
_CONTRACT = re.compile(r"contracting_dims = \[([\d, ]*)\] x")
_KERNEL = re.compile(r"x\[([\w, ]+)\]->")
# Of compiled modules.
_NAMED = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_SIZES = re.compile(r"\[([\d,]*)")  # of the first array of a type
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{\s*$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.-]+)")
_TRIPS = re.compile(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_OPERANDS = re.compile(r"(?:^|, )(?:\w+\[\S* )?%?([\w.-]+)")


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


def executed(text: str) -> float:
  """FLOPs of the matmuls and convolutions that one run of a compiled module executes.

  Args:
    text: `Compiled.as_text()`; a loop without a known trip count runs once here. Zeros
      of a convolution's padding count as data.
  """
  bodies, entry, lines = {}, None, []
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      lines = bodies.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif " = " in line:
      lines.append(line)

  @functools.cache
  def of(name):
    shapes, total = {}, 0.0
    for line in bodies[name]:
      found = _NAMED.match(line)
      if found is None:
        continue
      own, kind, operation, rest = found.groups()
      sizes = _SIZES.search(kind)
      shapes[own] = [int(n) for n in re.findall(r"\d+", sizes[1] if sizes else "")]
      if operation in ("dot", "convolution"):
        total += 2 * math.prod(shapes[own]) * _inner(operation, rest, shapes)
      trips = _TRIPS.search(rest) if operation == "while" else None
      times = int(trips[1]) if trips else 1
      total += times * sum(of(c) for c in _CALLED.findall(rest) if c in bodies)
    return total

  return of(entry)


def _inner(operation, rest, shapes) -> int:
  """Multiply-adds of a number of the result; `rest` begins with the operands."""
  left, right, *_ = _OPERANDS.findall(rest)
  if operation == "dot":
    at = [int(i) for i in _CONTRACTED.search(rest)[1].split(",") if i]
    return math.prod(shapes[left][i] for i in at)
  labels = _LABELS.search(rest)[1]  # of the kernel, such as 01io
  sizes = zip(shapes[right], labels, strict=True)
  return math.prod(n for n, name in sizes if name != "o")
