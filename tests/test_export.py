"""launch.export as a user runs it: what it keeps, and that it computes the same."""

import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests import test_extract_and_cluster as commands
from vlp_jax import infer, restore


@pytest.mark.slow
def test_an_export_is_the_model_without_what_only_training_needs(twins, tmp_path):
  start, out, file = (tmp_path / name for name in ("run", "out", "model.safetensors"))
  commands.weights(start)
  found = restore.load_variables(start)
  config = restore.workdir.read_config(start)
  whole = tmp_path / "whole"
  restore.export(whole, found | {"teacher": {"x": np.ones(3)}}, config=config)
  given = ["--workdir", whole, "--out", out, "--safetensors", file]
  told = commands.run("launch.export", *given)
  assert "left out: teacher" in told
  again = restore.load_variables(out)
  assert set(again) == set(found)
  frames = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), np.uint8)
  embed = [infer.Model.load(at).embed_video(video_frames=frames) for at in (start, out)]
  np.testing.assert_array_equal(*embed)
  named = safetensors.load_file(file)
  assert sorted(named) == sorted(restore.snapshot.flat(again))
  wrong = commands.run("launch.export", *given, code=4)
  assert "not empty" in wrong
  assert wrong.count("\n") == 1
