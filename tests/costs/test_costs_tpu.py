"""The TPU compiler without a TPU: one training step of a small net for four chips."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests import helpers

CONFIG = """
def get_config(arg=None):
  special = (0, 1, 2, 3, 4)
  return dict(
    model=dict(name="uniter", variant="mu", dtype="bfloat16"),
    vocab=dict(size=200, cls_id=2, sep_id=3, mask_id=4, special_ids=special),
    tasks=dict(mrfr=dict(objective="masked:mrfr")),
    input=dict(task="text_regions", rows=16, max_tokens=14, max_regions=12),
    optim=dict(name="sgd", lr=1e-3),
    total_steps=10,
  )
"""


def cost(tmp_path, topology):
  (tmp_path / "tiny.py").write_text(CONFIG)
  paths = os.pathsep.join([str(helpers.ROOT), os.environ.get("PYTHONPATH", "")])
  at = ("--config", str(tmp_path / "tiny.py"), "--topology", topology, "--json")
  at += ("--effort=-1",)
  return subprocess.run(
    [sys.executable, "-m", "launch.cost", *at],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": paths},
    cwd=helpers.ROOT,
  )


@pytest.mark.tpu
@pytest.mark.slow
def test_a_step_compiled_for_a_tpu(tmp_path):
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("needs libtpu: pip install -r requirements-tpu-aot.txt")
  made = cost(tmp_path, "v5e:2x2")
  assert made.returncode == 0, made.stderr
  out = json.loads(made.stdout)
  tpu = out["tpu"]
  assert (out["chips"], tpu["devices"], tpu["fits"]) == (4, 4, True)
  assert tpu["collectives"]["all-reduce"]["bytes"] > 0
  # Not a matmul in float32 but the head's own, on float32 targets.
  assert tpu["dots"]["bf16"]["flops"] > tpu["dots"].get("f32", {"flops": 0})["flops"]
  wrong = cost(tmp_path, "v5e:3x5")
  assert wrong.returncode == 2
  assert "Shapes that work: v5e:2x2" in wrong.stderr


def test_without_the_compiler_one_line_says_what_to_install(tmp_path):
  if importlib.util.find_spec("libtpu") is not None:
    pytest.skip("libtpu is installed here")
  made = cost(tmp_path, "v5e:2x2")
  assert made.returncode == 2
  assert made.stderr.strip().count("\n") == 0
  assert "pip install -r requirements-tpu-aot.txt" in made.stderr
