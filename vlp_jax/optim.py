"""Optimisers: parameter groups, clipping, learning-rate schedules, averaged weights.

A config says `optim = dict(name="adamw", lr=5e-5, b2=0.98, clip=5.0, warmup=10_000,
groups=((r"bias$|norm", dict(wd=0.0)), (r".*", dict(wd=0.01))))`. The first group whose
regular expression is found in a parameter's path ("encoder/layer_0/mlp/kernel") takes
the parameter; the keys of a group are

  wd, b1, ...  hyper-parameters of the rule, over those of the whole optimiser;
  lr_scale     factor on the learning rate;
  freeze       True: the update is exactly 0 and the optimiser keeps nothing;
  tx           another rule, by name;
  optional     True: the group may find no parameter in this model.

Where papers and codes differ, the rules (`vlp_jax.update_rules`) and `schedule` say so.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax import resolve, update_rules
from vlp_jax.errors import UserError
from vlp_jax.metrics import wide

OWN = ("lr_scale", "freeze", "tx", "optional")  # keys of a group that no rule sees


class OptState(NamedTuple):
  """Number of updates done (int32), and {path: {slot: array}}."""

  count: jax.Array
  slots: dict[str, dict[str, jax.Array]]


class EmaState(NamedTuple):
  """The averaged parameters, a tree like them."""

  ema: Any


def _boxed(x) -> bool:
  """Whether x is a parameter in a box with its axis names (flax's metadata)."""
  return hasattr(x, "unbox")


def _named(params) -> list[tuple[str, Any]]:
  found = jax.tree_util.tree_flatten_with_path(params, is_leaf=_boxed)[0]
  return [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in found]


def schedule(
  name: Literal["linear", "cosine", "polynomial", "step", "constant"] = "linear",
  *,
  lr: float,
  total_steps: int,
  warmup: int | float = 0,
  floor: float = 0.0,
  power: float = 1.0,
  boundaries: Sequence[int | float] = (),
  gamma: float = 0.1,
) -> Callable[[Any], Any]:
  """The learning rate as a function of the number of the update, counted from 1.

  With x = (n - warmup) / (total_steps - warmup), the rate is lr times n / warmup up to
  `warmup`, then 1 - x (linear), (1 + cos(pi x)) / 2 (cosine), (1 - x)^power
  (polynomial), gamma^(boundaries passed) (step) or 1 (constant); the first three are 0
  behind the end. It never falls below `floor`: UNITER's code ends at 1e-8, not at 0.
  The first update has lr / warmup; codes that count from 0 waste it at rate 0.

  Args:
    warmup: updates; a float below 1 is a share of total_steps.
    boundaries: updates from which a further factor gamma holds, or shares (floats < 1).
  Returns: a function of a Python or numpy number (computed in numpy, so that a log
    does not wait for the device) or of a traced one.
  Raises: UserError for an unknown name and for a warm-up beyond the end.
  """
  known = ("linear", "cosine", "polynomial", "step", "constant")
  if name not in known:
    raise UserError(f"optim.schedule: no {name!r}.{resolve.nearest(name, known)}")
  warm = round(warmup * total_steps) if 0 < warmup < 1 else int(warmup)
  if total_steps < 1 or warm < 0 or warm > total_steps:
    raise UserError(
      f"total_steps={total_steps} is below the warm-up of {warm} steps: raise "
      f"total_steps to at least {max(warm, 1)}, or lower optim.warmup."
    )
  ends = [b * total_steps if 0 < b < 1 else b for b in boundaries]

  def rate(n):
    xp = np if isinstance(n, int | float | np.number | np.ndarray) else jnp
    n = xp.asarray(n, float)
    x = xp.clip((n - warm) / max(total_steps - warm, 1), 0.0, 1.0)
    value = {
      "linear": lambda: 1.0 - x,
      "cosine": lambda: (1.0 + xp.cos(math.pi * x)) / 2.0,
      "polynomial": lambda: (1.0 - x) ** power,
      "step": lambda: gamma ** sum(((n >= b) * 1.0 for b in ends), 0.0 * n),
      "constant": lambda: 1.0 + 0.0 * x,
    }[name]()
    value = xp.where(n < warm, n / max(warm, 1), value)
    return xp.maximum(lr * value, floor)

  return rate


_schedule = schedule  # `build` has a keyword of the same name


def learning_rate(given: Mapping[str, Any]) -> Callable[[Any], Any]:
  """`schedule` of an optimiser's config together with `total_steps`, for the log.

  The function returned counts updates from 1, as `schedule` says. Skipped steps are no
  updates: after k of them step n has the rate of n - k. Groups multiply it by their
  lr_scale.
  """
  keys = ("lr", "total_steps", "warmup", "floor", "power", "boundaries", "gamma")
  keywords = {k: given[k] for k in keys if k in given}
  return _schedule(given.get("schedule", "linear"), **keywords)


def assign(
  params: Any, groups: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
  """{path: keys of its group} for every parameter; the first match wins.

  Raises: UserError when a parameter is in no group (the first 20 are listed), and when
    a group that is not `optional` finds nothing.
  """
  paths = [path for path, _ in _named(params)]
  out, found = {}, [False] * len(groups)
  for path in paths:
    for i, (pattern, keys) in enumerate(groups):
      if re.search(pattern, path):
        found[i] = True
        out.setdefault(path, dict(keys))
  left = [p for p in paths if p not in out]
  if left:
    more = f" and {len(left) - 20} more" if len(left) > 20 else ""
    raise UserError(
      f"optim.groups cover {len(out)} of {len(paths)} parameters; not "
      f"{', '.join(left[:20])}{more}. End the groups with ('.*', {{}})."
    )
  for (pattern, keys), hit in zip(groups, found, strict=True):
    if not hit and not keys.get("optional", False):
      raise UserError(
        f"optim.groups: {pattern!r} finds none of {len(paths)} parameters (such as "
        f"{paths[0]!r}). Correct it, or add optional=True to the group."
      )
  return out


def _rule(name: str, given: Mapping[str, Any], what: str) -> update_rules.Rule:
  rules = {r.__name__: r for r in update_rules.RULES}
  if name not in rules:
    raise UserError(f"{what}: no optimiser {name!r}.{resolve.nearest(name, rules)}")
  return resolve.bind(rules[name], given, what=f"{what} ({name})")()


def _plan(params, name, groups, hyper, stacked):
  """{path: (rule or None when frozen, lr_scale, leading layer axes)}."""
  made, out = {}, {}
  for path, keys in assign(params, groups).items():
    own = {k: keys[k] for k in OWN if k in keys}
    given = {k: v for k, v in keys.items() if k not in OWN}
    kind = own.get("tx", name)
    base = hyper if kind == name else {}  # another rule has other hyper-parameters
    key = (kind, *sorted(given.items()))
    if key not in made:
      made[key] = _rule(kind, base | given, "optim")
    rule = None if own.get("freeze", False) else made[key]
    lead = int(stacked is not None and bool(re.search(stacked, path)))
    out[path] = (rule, own.get("lr_scale", 1.0), lead)
  if stacked is not None and not any(lead for _, _, lead in out.values()):
    raise UserError(f"optim.stacked: {stacked!r} finds no parameter of this model.")
  return out


def build(
  params_shapes: Any,
  *,
  name: str,
  lr: float,
  total_steps: int,
  warmup: int | float = 0,
  schedule: str = "linear",
  floor: float = 0.0,
  power: float = 1.0,
  boundaries: Sequence[int | float] = (),
  gamma: float = 0.1,
  clip: float | None = None,
  groups: Sequence[tuple[str, Mapping[str, Any]]] = ((r".*", {}),),
  stacked: str | None = None,
  ema: float | None = None,
  **hyper: Any,
) -> optax.GradientTransformation:
  """The optimiser of a config; see the header of this file.

  Args:
    params_shapes: tree of arrays or of jax.ShapeDtypeStruct.
    name: a rule of `vlp_jax.update_rules`: adamw, adam, bert_adam, sgd, lamb, lars,
      adafactor.
    lr, total_steps, warmup, schedule, floor, power, boundaries, gamma: see `schedule`.
    clip: largest global norm of the gradients of all parameters that are not frozen,
      taken in float32. A norm that is not finite clips nothing.
    groups: (regular expression, keys) in order; they must cover every parameter.
    stacked: regular expression of the paths whose leading axis numbers the layers of a
      scanned stack: trust ratios, clips and norms of a parameter are then per layer.
    ema: decay of averaged parameters, for evaluation; see `ema_params`.
    hyper: keywords of the rule.
  Returns: an optax.GradientTransformation whose `update` needs the parameters. Given
    `ok` (a bool) too, it keeps its count and slots as they are where that is False.
  Raises: UserError for unknown names and keywords, groups that do not cover, patterns
    that find nothing, and a warm-up longer than the run.
  """
  plan = _plan(params_shapes, name, groups, hyper, stacked)
  rates = _schedule(
    schedule,
    lr=lr,
    total_steps=total_steps,
    warmup=warmup,
    floor=floor,
    power=power,
    boundaries=boundaries,
    gamma=gamma,
  )

  def init(params):
    slots = {}
    for path, leaf in _named(params):
      rule, _, lead = plan[path]
      if rule is not None:
        made = rule.init(wide(jax.tree.leaves(leaf)[0]), lead)
        # A slot keeps the box of its parameter, and with it the sharding.
        rebox = lambda x, box=leaf: jax.tree.map(lambda _: x, box)
        slots[path] = {k: rebox(x) for k, x in made.items()}
    return OptState(jnp.zeros((), jnp.int32), {k: v for k, v in slots.items() if v})

  def update(grads, state, params=None, *, ok=None):
    if params is None:
      raise ValueError("the optimiser needs params: tx.update(grads, state, params)")
    named, tree = _named(params), jax.tree.structure(params)
    grads = [wide(g) for g in jax.tree.leaves(grads)]
    n = state.count + 1
    rate = rates(n)
    moving = [g for (path, _), g in zip(named, grads, strict=True) if plan[path][0]]
    scale = 1.0
    if clip is not None and moving:
      scale = update_rules.clip_scale(optax.tree.norm(moving), clip)
    updates, slots = [], {}
    for (path, p), g in zip(named, grads, strict=True):
      rule, factor, lead = plan[path]
      if rule is None:
        updates.append(jnp.zeros_like(p))
        continue
      x, at = wide(p), state.slots.get(path, {})
      g, own, count = (jnp.asarray(a, x.dtype) for a in (g * scale, rate * factor, n))
      settle = functools.partial(_settle, old=at, ok=ok)
      delta, new = rule.update(g, at, x, own, count, lead, settle)
      updates.append(delta.astype(p.dtype))
      slots |= {path: new} if new else {}
    n = n if ok is None else jnp.where(ok, n, state.count)
    return jax.tree.unflatten(tree, updates), OptState(n, slots)

  tx = optax.GradientTransformationExtraArgs(init, update)
  return tx if ema is None else optax.chain(tx, _ema(ema))


def _settle(new, *, old, ok):
  """The slots that a step keeps: those of before where it is not `ok`."""
  if ok is None:
    return new
  new = {k: jnp.where(ok, x, old[k]) for k, x in new.items()}
  # A CPU updates them in place if nothing reads both old and new: half of the traffic
  # of Adam. Others make slots and parameter in one pass, which a barrier would cut.
  barrier = jax.lax.optimization_barrier
  return jax.lax.platform_dependent(new, cpu=barrier, default=lambda x: x)


def ema(decay: float) -> optax.GradientTransformation:
  """Keeps e = decay * e + (1 - decay) * p of the updated parameters p, e_0 = p_0.

  It changes no update; it is the last of a chain. `ema_params` reads the average.
  """
  if not 0.0 <= decay < 1.0:
    raise UserError(f"optim.ema is {decay}; a decay lies in [0, 1), such as 0.9999.")

  def init(params):
    # A copy: two leaves of one state must not share a donated buffer.
    return EmaState(jax.tree.map(lambda p: jnp.array(p, copy=True), params))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("ema needs params: tx.update(grads, state, params)")
    mix = lambda e, p, u: decay * e + (1.0 - decay) * (p + u).astype(e.dtype)
    return updates, EmaState(jax.tree.map(mix, state.ema, params, updates))

  return optax.GradientTransformation(init, update)


def ema_params(opt_state: Any) -> Any | None:
  """The averaged parameters in an optimizer state, None when it keeps none."""
  is_ema = lambda x: isinstance(x, EmaState)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_ema) if is_ema(x)]
  return found[0].ema if found else None


_ema = ema  # `build` has a keyword of the same name
