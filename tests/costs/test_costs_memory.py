"""Memory by formula against compiled steps on CPU, a config a family.

Left out are steps whose memory is not that of the backward pass at sizes that a CPU
compiles in seconds: SimCLR, MoCo, BYOL and BraVe, where pixels on their way to views
take more than the network, spoken digits, where spectrograms do, and deflation, most of
which is a forward pass. Stacks of at most four
layers are laid out one by one, and then compilers keep more than a loop does: the
estimate is that of the loop.
"""

import jax
import pytest

from launch import command
from tests import helpers
from vlp_jax.costs import job, memory

CASES = {
  "configs/audio_visual/avts.py:runlocal": ({}, {}),
  "configs/audio_visual/l3.py:runlocal": ({}, {}),
  "configs/captioning/youcook2.py:runlocal": (dict(depth=6, encoder_depth=6), {}),
  "configs/cbt/pretrain.py:runlocal": (dict(depth=6), dict(B=32)),
  "configs/howto100m/pretrain.py:runlocal": ({}, dict(B=64)),
  "configs/mmv/disjoint.py:runlocal": ({}, {}),
  "configs/quickstart.py": ({}, {}),
  "configs/videobert/pretrain.py:runlocal": (dict(depth=6), {}),
  "configs/xdc/pretrain.py:runlocal": ({}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES)
def test_temporaries_of_a_compiled_step(path):
  fields, sizes = CASES[path]
  config = command.config_of(f"{helpers.ROOT}/{path}").to_dict()
  config["model"] |= fields
  made = job.build(config, jax.devices()[:1], vocab_size=200, sizes=sizes)
  task = next(iter(made.tasks))
  options = {"xla_backend_optimization_level": 0}  # of the machine code, not the plan
  found = made.lower(task).compile(compiler_options=options).memory_analysis()
  peak = memory.activations(made, task, platform="cpu")[0]
  estimate = peak + memory.gradients(made)
  assert estimate == pytest.approx(found.temp_size_in_bytes, rel=0.15)
