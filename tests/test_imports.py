"""Imports point one way, and TensorFlow, flags and configs stay where they belong."""

import ast
import pathlib
import re

import pytest

from tests import helpers

# Package -> packages of vlp_jax that its files may import (besides the base files).
BASE = {"batch", "metrics", "vocab", "errors", "resolve"}
ALLOWED = {
  "layers": {"layers"},
  "towers": {"layers", "towers"},
  "fusion": {"layers", "towers", "fusion"},
  "heads": {"layers", "towers", "heads"},
  "models": {"layers", "towers", "fusion", "heads"},
  "augment": {"augment"},
  "objectives": {"objectives", "augment", "kmeans", "whitening"},
  "evaluators": {"evaluators"},
  "tasks": {"objectives", "tasks"},
  "formats": {"formats"},
  "importers": {"importers", "formats"},
}
FLAX = {*list(ALLOWED)[:5], "state", "sharding", "step", "infer"}
TF_FREE = ("vocabularies", "media", "synthetic", "plan.py", "prefetch.py", "records.py")
FORBIDDEN = {"tensorflow", "tensorflow_text", "seqio", "ml_collections", "absl"}


def _imports(path):
  """Full names of all modules that a file imports, wherever the statement stands."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (a.name for a in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from (f"{node.module}.{a.name}" for a in node.names)


def _files(folder):
  return sorted((helpers.ROOT / folder).rglob("*.py"))


def test_imports_of_the_library_point_one_way():
  wrong = []
  for path in _files("vlp_jax"):
    parts = path.relative_to(helpers.ROOT / "vlp_jax").with_suffix("").parts
    place = parts[0]
    for name in _imports(path):
      root, _, rest = name.partition(".")
      if root in FORBIDDEN:
        wrong.append(f"{path}: {name}")
      if root in ("data_pipelines", "configs", "launch"):
        wrong.append(f"{path}: {name} (only by name)")
      if root == "flax" and place not in FLAX:
        wrong.append(f"{path}: flax")
      if root == "vlp_jax" and place in ALLOWED:
        of = rest.split(".")[0]
        if of not in ALLOWED[place] | BASE and of:
          wrong.append(f"{path}: {name}")
        if place == "models" and rest.startswith("models"):
          wrong.append(f"{path}: a model imports a model")
  assert not wrong, "\n".join(wrong)


def test_tensorflow_stays_out_of_what_runs_without_it():
  wrong = [
    f"{path}: {name}"
    for part in TF_FREE
    for path in (
      _files(f"data_pipelines/{part}")
      if not part.endswith(".py")
      else [helpers.ROOT / "data_pipelines" / part]
    )
    for name in _imports(path)
    if name.split(".")[0] in ("tensorflow", "tensorflow_text", "seqio")
  ]
  assert not wrong, "\n".join(wrong)


def test_no_file_is_over_500_lines_and_the_loop_is_at_most_300():
  folders = ("vlp_jax", "data_pipelines", "configs", "launch", "tests")
  lengths = {p: len(p.read_text().splitlines()) for f in folders for p in _files(f)}
  assert not {str(p): n for p, n in lengths.items() if n > 500}
  assert lengths[helpers.ROOT / "vlp_jax" / "train.py"] <= 300


@pytest.mark.parametrize("folder", ["vlp_jax", "data_pipelines", "configs", "launch"])
def test_every_public_module_has_a_header(folder):
  bare = [
    str(p)
    for p in _files(folder)
    if p.read_text().strip() and ast.get_docstring(ast.parse(p.read_text())) is None
  ]
  assert not bare


def test_logical_axis_names_have_rules():
  """An activation axis without a rule would be replicated in silence."""
  from vlp_jax import sharding

  names = set()
  for path in _files("vlp_jax"):
    for node in ast.walk(ast.parse(path.read_text())):
      text = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
      if isinstance(text, str) and re.fullmatch(r"act_[a-z]+", text):
        names.add(text)
  assert names
  assert names <= set(sharding.RULES)


def test_top_level_holds_what_was_agreed():
  agreed = {"README.md", "LICENSE", "vlp_jax", "configs", "launch", "data_pipelines"}
  agreed |= {"tests", "notebooks", "requirements.txt"}
  found = {
    p.name
    for p in pathlib.Path(helpers.ROOT).iterdir()
    if p.name[0] != "." and p.name not in ("runs", "data", "__pycache__")
  }
  extra = {n for n in found - agreed if not n.startswith("requirements-")}
  assert not extra
