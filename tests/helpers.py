"""What several tests share: where the shared data lie, and golden files."""

import json
import pathlib

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def shared(path: str) -> pathlib.Path:
  """A file of `../shared`, or of `tests/golden`; the test is skipped without it."""
  for base in (ROOT / "tests" / "golden", ROOT.parent / "shared"):
    for at in (base / path, base / pathlib.Path(path).name):
      if at.exists():
        return at
  return pytest.skip(f"needs shared/{path}, which is not on this machine")


def golden(name: str):
  """(weights, inputs, outputs, meta) of `parity/<name>.npz`; no pickles."""
  with np.load(shared(f"parity/{name}.npz"), allow_pickle=False) as z:
    groups = [
      {k[2:]: z[k] for k in z.files if k.startswith(p)} for p in ("w/", "i/", "o/")
    ]
    meta = json.loads(bytes(z["meta/json"]))
  return *groups, meta
