"""Names to functions by import path, and keywords checked before any compile.

`"uniter"` in models is `vlp_jax/models/uniter.py:Model`; `"masked:mlm"` in objectives
is `vlp_jax/objectives/masked.py:mlm`. There is no registry: to add a thing, add a file.
"""

import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from vlp_jax.errors import UserError


class Span(NamedTuple):
  """Numbers that may be given: of `Annotated[float, Span(0, 1)]` those in [0, 1)."""

  low: float
  high: float = math.inf

  def __str__(self):
    above = "" if math.isinf(self.high) else f" and below {self.high}"
    return f"at least {self.low}{above}"


def nearest(word: str, known: Iterable[str]) -> str:
  """The tail of an error: the nearest match and all that is known."""
  known = sorted(str(k) for k in known)
  close = difflib.get_close_matches(str(word), known, n=1)
  hint = f" Did you mean {close[0]!r}?" if close else ""
  return f"{hint} Known: {', '.join(known) or 'none'}."


def module(place: str, name: str) -> types.ModuleType:
  """The module `name` of the package `place`; UserError with the known names."""
  full = f"{place}.{name}"
  try:
    return importlib.import_module(full)
  except ModuleNotFoundError as error:
    if error.name is None or not full.startswith(error.name):
      raise  # a dependency of the module is missing, not the module
  known = [
    m.name for m in pkgutil.iter_modules(importlib.import_module(place).__path__)
  ]
  raise UserError(f"no {name!r} in {place}.{nearest(name, known)}")


def function(place: str, name: str) -> Callable:
  """`"file:function"` of a package: ("vlp_jax.objectives", "masked:mlm")."""
  file, colon, attribute = name.partition(":")
  if not colon:
    raise UserError(f"{name!r} of {place} is not of the form 'file:function'.")
  found = module(place, file)
  fn = getattr(found, attribute, None)
  if not callable(fn):
    known = [k for k, v in vars(found).items() if inspect.isfunction(v) and k[0] != "_"]
    raise UserError(f"no {attribute!r} in {place}.{file}.{nearest(attribute, known)}")
  return fn


def _fits(value, hint) -> bool:
  """Whether a value of a config fits an annotation; unknown ones accept all."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is None or hint is type(None):
    return value is None
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, a) for a in args)
  if origin is typing.Literal:
    return value in args
  if origin is typing.Annotated:
    spans = [a for a in hint.__metadata__ if isinstance(a, Span)]
    return _fits(value, args[0]) and all(s.low <= value < s.high for s in spans)
  kind = origin or hint
  if not isinstance(kind, type):
    return True
  if kind is float:
    return isinstance(value, int | float) and not isinstance(value, bool)
  if kind is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if kind in (bool, str):
    return isinstance(value, kind)
  if kind in (tuple, list):
    return isinstance(value, tuple | list)
  if kind is Mapping:
    return isinstance(value, Mapping)
  return True


def _wanted(hint) -> str:
  """An annotation in words, for an error."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if hint is type(None):
    return "None"
  if origin in (typing.Union, types.UnionType):
    return " or ".join(_wanted(a) for a in args)
  if origin is typing.Literal:
    return f"one of {', '.join(map(repr, args))}"
  if origin is typing.Annotated:
    spans = [str(a) for a in hint.__metadata__ if isinstance(a, Span)]
    return ", ".join([_wanted(args[0]), *spans])
  return getattr(hint, "__name__", str(hint))


def bind(
  fn: Callable,
  given: Mapping[str, Any],
  *,
  inject: Mapping[str, Any] | None = None,
  skip: int | Iterable[str] = 0,
  what: str = "",
) -> functools.partial:
  """`fn` with keywords from a config, checked against its signature.

  Args:
    fn: function or class (a dataclass or linen module).
    given: keywords from the config.
    inject: keywords to add where the signature asks for them (vocab, vocab_size, ...).
    skip: leading positional parameters that the caller gives: their number or names.
    what: where the keywords stand, for the error.
  Returns: functools.partial(fn, **keywords).
  Raises: UserError naming an unknown or missing keyword, or one whose value is not of
    its annotation: a type, `Literal` choices, or `Annotated` with a `Span`.
  """
  what = what or getattr(fn, "__name__", str(fn))
  parameters = dict(inspect.signature(fn).parameters)
  for hidden in ("parent", "name") if hasattr(fn, "__dataclass_fields__") else ():
    parameters.pop(hidden, None)  # linen's own fields
  leading = list(parameters)[:skip] if isinstance(skip, int) else list(skip)
  for name in leading:
    parameters.pop(name, None)
  kinds = inspect.Parameter
  extra = [k for k, p in parameters.items() if p.kind is kinds.VAR_KEYWORD]
  named = {
    k: p
    for k, p in parameters.items()
    if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
  }
  given = dict(given)
  for key in given:
    if key not in named and not extra:
      raise UserError(f"{what}: unknown key {key!r}.{nearest(key, named)}")
  added = {k: v for k, v in (inject or {}).items() if k in named and k not in given}
  hints = _hints(fn)
  for key, value in given.items():
    if key in hints and not _fits(value, hints[key]):
      raise UserError(
        f"{what}.{key} is {value!r} ({type(value).__name__}); it must be "
        f"{_wanted(hints[key])}."
      )
  keywords = given | added
  missing = [
    k for k, p in named.items() if p.default is kinds.empty and k not in keywords
  ]
  if missing:
    raise UserError(f"{what}: missing {', '.join(missing)}. Set it in the config.")
  return functools.partial(fn, **keywords)


def _hints(fn):
  try:
    return typing.get_type_hints(fn, include_extras=True)
  except (NameError, TypeError):
    return {}


def model(config: Mapping[str, Any], *, inject: Mapping[str, Any] | None = None):
  """The linen module of `config = dict(name=..., variant=..., **fields)`."""
  given = dict(config)
  name, variant = given.pop("name", None), given.pop("variant", None)
  if not isinstance(name, str):
    raise UserError("model.name is missing: the file in vlp_jax/models, e.g. 'uniter'.")
  found = module("vlp_jax.models", name)
  if variant is not None and variant not in found.VARIANTS:
    hint = nearest(variant, found.VARIANTS)
    raise UserError(f"model.variant {variant!r} is not one of {name}.{hint}")
  base = found.VARIANTS[variant] if variant is not None else {}
  fields = {
    k: tuple(v) if isinstance(v, list) else v for k, v in (base | given).items()
  }
  return bind(found.Model, fields, inject=inject, what=f"model {name}")()
