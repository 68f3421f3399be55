"""Signatures read from source are those of the imported functions."""

import importlib
import inspect
import typing

import pytest

from tests import helpers
from vlp_jax import declared
from vlp_jax.errors import UserError

PLACE = "data_pipelines.tasks"
TASKS = [
  p.stem
  for p in (helpers.ROOT / "data_pipelines" / "tasks").glob("*.py")
  if "\ndef define(" in p.read_text()
]


@pytest.mark.parametrize("task", TASKS)
def test_names_kinds_and_plain_types_agree(task):
  stub = declared.function(PLACE, task, "define")
  real = importlib.import_module(f"{PLACE}.{task}").define
  told, true = inspect.signature(stub), inspect.signature(real)
  empty = inspect.Parameter.empty
  look = lambda s: [(p.name, p.kind, p.default is empty) for p in s.parameters.values()]
  assert look(told) == look(true)
  hints = typing.get_type_hints(real)
  for name, hint in typing.get_type_hints(stub).items():
    origin = typing.get_origin(hints[name])
    union = [typing.get_origin(a) or a for a in typing.get_args(hints[name])]
    assert hint in (hints[name], origin) or set(typing.get_args(hint)) == set(union)


def test_unknown_files_and_functions_are_told():
  with pytest.raises(UserError, match="Did you mean 'text_regions'"):
    declared.function(PLACE, "text_region", "define")
  with pytest.raises(UserError, match="no function 'defin'"):
    declared.function(PLACE, "text_regions", "defin")
