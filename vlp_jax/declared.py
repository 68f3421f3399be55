"""Signatures read from source, for files whose import costs ten seconds of TensorFlow.

A mistake in a config is told before anything slow is imported, so the keywords of a
pipeline's task are looked up in its file without running it.
"""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlp_jax import resolve
from vlp_jax.errors import UserError

# Annotations of other names are left out: they would have to be imported.
_KNOWN = {k.__name__: k for k in (int, float, str, bool, tuple, list, dict)}
_KNOWN |= {"Mapping": Mapping, "Sequence": Sequence}


def function(place: str, file: str, name: str) -> Callable:
  """A stand-in with the parameters of `name` in `file` of the package `place`.

  It serves `resolve.bind` and does nothing else; defaults are None.
  Raises: UserError for an unknown file, with the known ones.
  """
  known = Path(importlib.util.find_spec(place).submodule_search_locations[0])
  path = known / f"{file}.py"
  if not isinstance(file, str) or not path.is_file():
    names = [p.stem for p in known.glob("*.py") if p.stem != "__init__"]
    raise UserError(f"no {file!r} in {place}.{resolve.nearest(file, names)}")
  for node in ast.parse(path.read_text(), str(path)).body:
    if isinstance(node, ast.FunctionDef) and node.name == name:
      return _stand_in(node)
  raise UserError(f"{place}.{file} has no function {name!r}.")


def _stand_in(node: ast.FunctionDef) -> Callable:
  kinds, given, found = inspect.Parameter, node.args, []
  leading = [*given.posonlyargs, *given.args]
  required = len(leading) - len(given.defaults)
  for i, a in enumerate(leading):
    found.append((a, kinds.POSITIONAL_OR_KEYWORD, i < required))
  for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
    found.append((a, kinds.KEYWORD_ONLY, default is None))
  if given.kwarg:
    found.append((given.kwarg, kinds.VAR_KEYWORD, True))

  def stand_in(*_, **__):
    raise TypeError(f"{node.name} is known by its signature only")

  empty = kinds.empty
  stand_in.__signature__ = inspect.Signature(
    [kinds(a.arg, k, default=empty if must else None) for a, k, must in found]
  )
  hints = {a.arg: _hint(a.annotation) for a, _, _ in found}
  stand_in.__annotations__ = {k: h for k, h in hints.items() if h is not None}
  return stand_in


def _hint(node):
  """The type that an annotation names; None where a name of it is not known."""
  if isinstance(node, ast.Constant) and node.value is None:
    return type(None)
  if isinstance(node, ast.Name):
    return _KNOWN.get(node.id)
  if isinstance(node, ast.Subscript):
    return _hint(node.value)
  if isinstance(node, ast.BinOp):
    sides = _hint(node.left), _hint(node.right)
    return None if None in sides else sides[0] | sides[1]
  return None
