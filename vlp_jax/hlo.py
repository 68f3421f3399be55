"""What a compiled program sends between devices, read from its HLO text.

`collectives(jax.jit(f).lower(*args).compile().as_text())`. It is per device, and an
instruction inside a loop counts as often as the loop runs.
"""

import math
import re
from collections.abc import Iterator

KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-broadcast",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)
# A type is one word or a tuple in parentheses; the name after it is the operation.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) (?:\(.*\) -> .*)?\{\s*$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<= ]*)\]")
_CALLED = re.compile(
  r"\b(calls|to_apply|body|condition|true_computation|false_computation|"
  r"branch_computations|called_computations)=(\{[^}]*\}|%?[\w.-]+)"
)
_TRIPS = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')
_LIMIT = re.compile(r"%?([\w.-]+) = s32\[\]\S* constant\((\d+)\)")
_WRITTEN = re.compile(r'op_name="[^"]*\ball_gather(_invariant)?\b"')
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.-]+, %?([\w.-]+)\), direction=LT")


def type_bytes(text: str) -> int:
  """Bytes of an HLO type such as `f32[8,16]{1,0}` or a tuple of them.

  Tokens and opaque values are 0; types of less than a byte are counted packed.
  """
  bits = 0
  for kind, shape in _ARRAY.findall(text):
    width = 8 if kind == "pred" else int((re.findall(r"\d+", kind) or [0])[0])
    sizes = [int(n.strip(" <=")) for n in shape.split(",") if n.strip()]
    bits += width * math.prod(sizes)
  return -(-bits // 8)


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Counts and bytes of collective operations that one run executes on a device.

  Args:
    text: of a compiled module (`Compiled.as_text()`).
  Returns: kind -> {count, bytes}, for the kinds that occur. `bytes` is that of the
    *results*: the whole gathered array of an all-gather, the array of an all-reduce,
    but only the part that a device keeps of a reduce-scatter. A pair of `-start` and
    `-done` is one operation. A loop runs as often as its known trip count says, or the
    constant below which its condition, as a scan's, wants a counter (programs for TPU
    have no trip counts); else once here. Of a conditional every branch counts.
  Raises: ValueError for a text that is no HLO module.
  """
  out = {}
  for kind, result, times, _ in _found(text):
    one = out.setdefault(kind, {"count": 0, "bytes": 0})
    one["count"] += times
    one["bytes"] += times * type_bytes(result)
  return out


def gathered(text: str) -> set[tuple[int, ...]]:
  """Shapes of what a compiled program puts together on a device unasked.

  That is by all-gathers that the partitioner has added; those that a program itself
  writes, as losses over the global batch do, carry their name and are left out.
  """
  shapes = set()
  for kind, result, _, line in _found(text):
    if kind == "all-gather" and not _WRITTEN.search(line):
      for _, sizes in _ARRAY.findall(result):
        shapes.add(tuple(int(n.strip(" <=")) for n in sizes.split(",") if n.strip()))
  return shapes


def _found(text) -> Iterator[tuple[str, str, int, str]]:
  """(kind, type of the result, how often, line) of all collectives of a program."""
  bodies, entry = _computations(text)
  if entry is None:
    raise ValueError(
      f"no HLO module: {text[:40]!r}... has no ENTRY computation. Give the text of a "
      "compiled program, `jit(f).lower(...).compile().as_text()`."
    )
  return _walk(entry, bodies, 1)


def _computations(text):
  """({name: its instructions as (type, operation, line)}, name of the entry)."""
  bodies, entry, lines = {}, None, []
  for line in text.splitlines():
    head = _COMPUTATION.match(line)
    if head:
      lines = bodies.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
      continue
    found = _INSTRUCTION.match(line)
    if found:
      lines.append((found[2], found[3], line))
  return bodies, entry


def _below(name, bodies) -> int:
  """N of a loop's condition `i < N`, where it is that; else 1."""
  lines = [line for _, _, line in bodies.get(name, ())]
  limits = dict(found.groups() for line in lines if (found := _LIMIT.search(line)))
  asked = [found[1] for line in lines if (found := _BELOW.search(line))]
  return int(limits.get(asked[0], 1)) if asked else 1


def _trips(line, bodies) -> int:
  """How often a loop runs, as far as its line and its condition tell."""
  known = _TRIPS.search(line)
  if known:
    return int(known[1])
  called = dict(_CALLED.findall(line))
  return _below(called.get("condition", "").lstrip("%"), bodies)


def _walk(name, bodies, times) -> Iterator[tuple[str, str, int, str]]:
  """(kind, type, how often, line) of all collectives below a computation."""
  for kind, operation, line in bodies[name]:
    base = operation.removesuffix("-done").removesuffix("-start")
    if base in KINDS:
      # Results of a start hold operands and contexts as well; those of a done do not.
      if not operation.endswith("-start"):
        yield base, kind, times, line
      continue
    if operation in ("async-update", "async-done"):
      continue  # they name the computation that the start has run
    often = times * (_trips(line, bodies) if operation == "while" else 1)
    for _, called in _CALLED.findall(line):
      for inner in re.findall(r"[\w.-]+", called):
        if inner in bodies:
          yield from _walk(inner, bodies, often)
