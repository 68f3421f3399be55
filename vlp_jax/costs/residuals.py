"""Arrays that the backward pass keeps, known before any compile.

`jax.vjp` hands out the shapes of what it keeps. Compiled programs of scanned layers
keep just that. Convolutional networks keep less: what follows from other kept arrays by
cheap arithmetic, as normalised values and masks of ReLUs do from the results of
convolutions, is computed again where it is read. What convolutions and matmuls read
themselves is not: it lies in memory anyway.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
from jax.extend import core

from vlp_jax import state as state_lib
from vlp_jax.costs import job as job_lib
from vlp_jax.metrics import Mean

WHOLE = ("dot_general", "conv_general_dilated", "scan", "while", "cond")
CHEAP = frozenset(
  (
    "abs",
    "add",
    "and",
    "broadcast_in_dim",
    "clamp",
    "convert_element_type",
    "copy",
    "copy_p",
    "div",
    "eq",
    "expand_dims",
    "ge",
    "gt",
    "integer_pow",
    "iota",
    "is_finite",
    "le",
    "lt",
    "max",
    "min",
    "mul",
    "name",
    "ne",
    "neg",
    "not",
    "or",
    "pow",
    "rem",
    "reshape",
    "round",
    "select_n",
    "sign",
    "square",
    "squeeze",
    "stop_gradient",
    "sub",
    "xor",
  )
)
CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call")


def program(job: job_lib.Job, task: str, *, model: Any = None) -> Any:
  """The forward pass of a whole global batch, whose results are what is kept.

  Args:
    model: instead of the job's.
  """
  one = job.tasks[task]
  apply = state_lib.make_apply(job.model if model is None else model)

  def kept(params, rest, batch, key):
    prepare = getattr(one.objective, "prepare", None)
    if prepare is not None:
      batch = prepare(batch, key)

    def loss_of(params):
      terms, _, _ = one.objective(apply, rest | {"params": params}, batch, key)
      return sum(t.coef * Mean(t.total, t.weight).value for t in terms.values())

    return jax.tree.leaves(jax.vjp(loss_of, params)[1])

  plain = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
  args = jax.tree.map(plain, (job.abstract.params, job.abstract.mutable))
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.make_jaxpr(kept)(*args, one.batch, key).jaxpr


def distinct(jaxpr: Any, platform: str, fused: bool = False) -> list[Any]:
  """Variables of a program's results, each once, without its arguments.

  Code that depends on the platform keeps the residuals of all its branches, empty in
  those that do not fill them; those of one branch are counted.

  Args:
    platform: "cpu" or any other: some layers have code of their own for it.
    fused: whether to leave out what follows by cheap arithmetic.
  """
  made = {out: e for e in jaxpr.eqns for out in e.outvars}

  def origin(var):
    """The variable whose value this is; None for what is empty."""
    equation = made.get(var)
    if equation and _same(equation) and isinstance(equation.invars[0], core.Var):
      return origin(equation.invars[0])
    platforms = equation and equation.params.get("branches_platforms")
    if not platforms:
      return var
    inner = branch(equation, platform)
    found = inner.outvars[equation.outvars.index(var)]
    if found in inner.invars:  # the first operand is the platform's number
      return origin(equation.invars[1 + inner.invars.index(found)])
    return None if found in _empty(inner) else var

  found = dict.fromkeys(origin(v) for v in jaxpr.outvars if isinstance(v, core.Var))
  given = {*jaxpr.invars, *jaxpr.constvars, None}
  kept = [v for v in found if v not in given]
  return _needed(jaxpr, kept, made, given) if fused else kept


def _same(equation) -> bool:
  """Whether the result is its first operand in another shape or a wider type."""
  name = equation.primitive.name
  if name in ("name", "reshape", "squeeze", "expand_dims", "broadcast_in_dim"):
    return True
  if name != "convert_element_type":
    return False
  x, y = equation.invars[0].aval, equation.outvars[0].aval
  return x.dtype.itemsize <= y.dtype.itemsize


def _needed(jaxpr, kept, made, given) -> list[Any]:
  """Those of `kept` that do not follow from the others by cheap arithmetic."""
  read = {v for e in jaxpr.eqns if _whole(e) for v in e.invars}
  order = {v: i for i, e in enumerate(jaxpr.eqns) for v in e.outvars}
  there, out = set(kept) | given, []

  def follows(var, goal, memory):
    """Whether a value can be had again without keeping it."""
    if not isinstance(var, core.Var) or (var in there and var is not goal):
      return True
    if math.prod(var.aval.shape) * 16 <= math.prod(goal.aval.shape) and var is not goal:
      return True  # small things are kept in any case
    if var in memory:
      return memory[var]
    equation = made.get(var)
    memory[var] = False
    if equation is not None and cheap(equation):
      memory[var] = all(follows(v, goal, memory) for v in equation.invars)
    return memory[var]

  for var in sorted(kept, key=order.get, reverse=True):
    if var not in read and follows(var, var, {}):
      there.discard(var)
    else:
      out.append(var)
  return out


def _whole(equation) -> bool:
  """Whether it has a matmul, a convolution or a loop inside."""
  if equation.primitive.name in WHOLE:
    return True
  return any(_whole(e) for e in _inside(equation))


def cheap(equation, names: Collection[str] = CHEAP) -> bool:
  """Whether an equation, or all that it calls, is of these primitives."""
  name = equation.primitive.name
  if name in CALLS:
    return all(cheap(e, names) for e in _inside(equation))
  return name in names


def branch(equation, platform: str) -> Any:
  """The program of this platform, of an equation that depends on it."""
  platforms = equation.params["branches_platforms"]
  own = [i for i, names in enumerate(platforms) if names and platform in names]
  at = own[0] if own else platforms.index(None)
  return equation.params["branches"][at].jaxpr


def _inside(equation) -> list[Any]:
  inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
  if inner is None:
    return []
  return getattr(inner, "jaxpr", inner).eqns


def _empty(jaxpr) -> set[Any]:
  """Variables that jax fills with nothing, where another branch has a residual."""
  out = set()
  for e in jaxpr.eqns:
    source = next((v for v in e.invars if isinstance(v, core.Var)), None)
    widened = e.primitive.name == "broadcast_in_dim" and source in out
    if widened or e.primitive.name.startswith("empty"):
      out.update(e.outvars)
  return out
