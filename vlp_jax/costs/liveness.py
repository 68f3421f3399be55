"""The most that a forward pass holds at once, known before any compile.

Where gradients reach everything, the backward pass holds more. Where they do not, as
in a network that another one imitates, nothing is kept and this is what counts.

Programs are read in their order. What matmuls, convolutions, sums and loops make lies
in memory until its last reader; what follows by arithmetic a number at a time, or by
moving numbers, is made inside its readers, so that what it is made of lives on. CPUs
multiply what lies in memory, and lay slices of an array out for it, the columns of a
stem, as soon as that is there.
"""

import collections
from collections.abc import Callable, Iterable
from typing import Any

from jax.extend import core

from vlp_jax.costs import residuals

MOVES = frozenset(("concatenate", "pad", "rev", "slice", "transpose"))
UNARY = frozenset(("cos", "erf", "exp", "log", "logistic", "rsqrt", "sin", "sqrt"))
FUSED = residuals.CHEAP | MOVES | UNARY | {"reduce_precision", "tanh"}
MULTIPLY = ("conv_general_dilated", "dot_general")
LOOPS = ("scan", "while", "cond")


def peak(
  jaxpr: Any,
  kept: Iterable[Any],
  *,
  platform: str,
  of: Callable[[Any], float],
) -> float:
  """Bytes at the worst moment of a program, its arguments left out.

  Args:
    kept: variables that stay to the end.
    platform: whose branch is counted where code depends on it.
    of: bytes of an abstract array.
  """
  steps, alias = _flat(jaxpr, platform)
  end = len(steps)
  sources, last = {}, {}  # of a value: the arrays in memory that it is made of

  def read(var, when):
    for array in sources.get(var, ()):
      last[array] = max(last.get(array, -1), when)

  whole = set()  # what lies in memory to be multiplied
  if platform == "cpu":
    whole = {v for e, ins, _ in steps if e.primitive.name in MULTIPLY for v in ins}
  made = collections.defaultdict(list)  # step: arrays
  ready = {}  # array: step
  inner = {}  # step: bytes of a loop's own
  for at, (equation, ins, outs) in enumerate(steps):
    for var in ins:
      read(var, at)
    if residuals.cheap(equation, FUSED) and not whole.intersection(outs):
      found = frozenset().union(*(sources.get(v, ()) for v in ins))
      sources |= dict.fromkeys(outs, found)
      continue
    inner[at], begin = _inside(equation, platform, of), at
    if equation.primitive.name == "slice":  # it is in `whole`, if we get here
      arrays = frozenset().union(*(sources.get(v, ()) for v in ins))
      begin = max((ready[array] for array in arrays), default=0)
    for var, out in zip(outs, equation.outvars, strict=True):
      made[begin].append((var, of(out.aval)))
      sources[var], ready[var] = frozenset([var]), begin
      last[var] = at
  for var in kept:
    read(alias(var), end)
  size = {var: n for arrays in made.values() for var, n in arrays}
  dies = collections.defaultdict(list)
  for var, when in last.items():
    dies[when].append(var)
  live = most = 0.0
  for at in range(end):
    live += sum(n for _, n in made[at])
    most = max(most, live + inner.get(at, 0.0))
    live -= sum(size[var] for var in dies[at])
  return most


def _inside(equation, platform, of) -> float:
  """What one turn of a loop holds beside its results; the worst branch of a `cond`."""
  if equation.primitive.name not in LOOPS:
    return 0.0
  given = equation.params
  branches = given.get("branches") or [given.get("jaxpr", given.get("body_jaxpr"))]
  bodies = (getattr(b, "jaxpr", b) for b in branches)
  return max(peak(b, b.outvars, platform=platform, of=of) for b in bodies)


def _flat(jaxpr, platform):
  """([(equation, reads, writes)] with calls written out, what a variable is called)."""
  steps = []

  def walk(jaxpr, names):
    name = lambda v: names.get(v, v) if isinstance(v, core.Var) else None
    for equation in jaxpr.eqns:
      ins = [name(v) for v in equation.invars]
      body, skip = _called(equation, platform)
      if body is None:
        names |= {v: (len(steps), i) for i, v in enumerate(equation.outvars)}
        outs = [names[v] for v in equation.outvars]
        steps.append((equation, [v for v in ins if v is not None], outs))
        continue
      own = dict(zip(body.invars, ins[skip:], strict=True))
      walk(body, own)
      for out, result in zip(equation.outvars, body.outvars, strict=True):
        names[out] = own.get(result) if isinstance(result, core.Var) else None

  top = {}
  walk(jaxpr, top)
  return steps, lambda v: top.get(v)


def _called(equation, platform):
  """(the program that an equation calls once, operands that are not its), or None."""
  places = equation.params.get("branches_platforms")
  if places:
    return residuals.branch(equation, platform), 1  # the first is the platform's number
  if equation.primitive.name not in (*residuals.CALLS, "remat2", "checkpoint"):
    return None, 0
  inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
  return (None, 0) if inner is None else (getattr(inner, "jaxpr", inner), 0)
