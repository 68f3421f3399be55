"""FLOPs of a traced program: matmuls and convolutions, loops as often as they run.

It walks a jaxpr backwards and counts what the results depend on, so that what a
compiler drops is not counted. Written without the formulas of `vlp_jax.costs`.
"""

import math

import jax
from jax.extend import core


def of(fn, *args) -> float:
  """FLOPs of fn(*args), args being shapes; a multiply-add is 2."""
  closed = jax.make_jaxpr(fn)(*args)
  return _count(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _count(jaxpr, wanted):
  """(FLOPs behind the wanted outputs, which inputs they need)."""
  live = {v for v, w in zip(jaxpr.outvars, wanted, strict=True) if w and _is_var(v)}
  total = 0.0
  for e in reversed(jaxpr.eqns):
    out = [v in live for v in e.outvars]
    if not any(out) and not e.effects:
      continue
    more, needs = _equation(e, out)
    total += more
    live |= {v for v, n in zip(e.invars, needs, strict=True) if n and _is_var(v)}
  return total, [v in live for v in jaxpr.invars]


def _is_var(v):
  return isinstance(v, core.Var)


def _equation(e, out):
  name, p, every = e.primitive.name, e.params, [True] * len(e.invars)
  if name == "dot_general":
    (contract, _), _ = p["dimension_numbers"]
    inner = math.prod(e.invars[0].aval.shape[i] for i in contract)
    return 2.0 * math.prod(e.outvars[0].aval.shape) * inner, every
  if name == "conv_general_dilated":
    kernel, spec = e.invars[1].aval.shape, p["dimension_numbers"].rhs_spec
    inner = math.prod(kernel) / kernel[spec[0]]  # taps and channels of a group
    return 2.0 * math.prod(e.outvars[0].aval.shape) * inner, every
  if name == "scan":
    return _scan(e, out)
  if name == "while":
    raise NotImplementedError("a loop of unknown length")
  if name == "cond":  # of branches by platform, that of accelerators
    platforms = p.get("branches_platforms")
    branches = p["branches"]
    if platforms:
      branches = [branches[list(platforms).index(None)]]
    found = [_count(b.jaxpr, out) for b in branches]
    total, needs = max(found, key=lambda f: f[0])
    return total, [True, *needs]
  inner = p.get("jaxpr", p.get("call_jaxpr", p.get("fun_jaxpr")))
  if inner is None:
    return 0.0, every
  inner = getattr(inner, "jaxpr", inner)
  total, needs = _count(inner, out)
  extra = len(e.invars) - len(needs)
  return total, [True] * extra + needs


def _scan(e, out):
  p = e.params
  body, constants, carry = p["jaxpr"].jaxpr, p["num_consts"], p["num_carry"]
  wanted = list(out)
  while True:  # what the carry needs, the step before has to give
    total, needs = _count(body, wanted)
    again = needs[constants : constants + carry]
    grown = [w or a for w, a in zip(wanted[:carry], again, strict=True)]
    if grown == wanted[:carry]:
      return total * p["length"], needs
    wanted[:carry] = grown
