"""The GPU benchmark on the smallest shapes, without TensorFlow and its friends."""

import json
import os
import subprocess
import sys

import pytest

from tests import helpers

BLOCKED = ("tensorflow", "tensorflow_text", "seqio", "clu", "ml_collections")
# Nothing finds what is blocked, as where it is not installed.
CODE = """
import runpy, sys

class Blocked:
  @staticmethod
  def find_spec(name, path=None, target=None):
    if name.partition(".")[0] in {blocked}:
      raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked)
sys.argv = {argv}
runpy.run_module("launch.bench.gpu", run_name="__main__")
"""


def bench(*args, **env):
  code = CODE.format(blocked=BLOCKED, argv=["gpu", *args])
  return subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    cwd=helpers.ROOT,
    env=os.environ | env,
  )


@pytest.mark.parametrize(
  "names",
  [
    pytest.param(("uniter_base",), marks=pytest.mark.slow),
    pytest.param(("vit_base", "s3d", "tsm_resnet50"), marks=pytest.mark.slow),
  ],
)
def test_the_smallest_shapes_run(names):
  chosen = [f"--cases={n}" for n in names]
  made = bench("--cpu", "--tiny", "--rounds=1", "--steps=1", *chosen)
  assert made.returncode == 0, made.stderr[-2000:]
  lines = [json.loads(x) for x in made.stdout.splitlines()]
  cases = [f"{n} {kind}" for n in names for kind in ("bfloat16", "float32")]
  assert [r["case"] for r in lines] == cases
  for r in lines:
    assert r["ms"] > 0
    assert r["flops"] > 1e6
    assert r["mfu"] is None  # of a CPU no peak is known, so no goal is told
    assert "met" not in r
    assert ("times_faster" in r) == ("float32" in r["case"])


@pytest.mark.parametrize(
  ("args", "says"),
  [
    ((), "no GPU here, jax sees 'cpu'"),
    (("--tiny",), "--tiny is for --cpu"),
    (("--cpu", "--rounds=2"), "--rounds=2: fewer than 5 tell nothing"),
    (("--cpu", "--tiny", "--steps=0"), "at least 1"),
  ],
)
def test_mistakes_are_one_line(args, says):
  made = bench(*args, JAX_PLATFORMS="cpu")
  assert made.returncode == 2
  assert made.stderr.startswith("error: ")
  assert made.stderr.count("\n") == 1
  assert says in made.stderr
