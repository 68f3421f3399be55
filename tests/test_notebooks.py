"""Notebooks run from the first cell to the last."""

import json
import pathlib

import matplotlib as mpl
import pytest

from tests import helpers

NOTEBOOKS = sorted((helpers.ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: pathlib.Path, monkeypatch):
  mpl.use("Agg")
  monkeypatch.chdir(helpers.ROOT)
  scope = {}
  for cell in json.loads(path.read_text())["cells"]:
    if cell["cell_type"] == "code":
      assert not cell["outputs"], "clear the outputs before committing"
      exec("".join(cell["source"]), scope)
  assert len(scope["out"].metrics) == 3


def test_there_is_a_notebook():
  assert NOTEBOOKS
