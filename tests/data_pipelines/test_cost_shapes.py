"""The shapes that `launch.cost` takes for a config are those of its real batches."""

import importlib.util

import pytest

from data_pipelines import batches
from tests import helpers
from vlp_jax import resolve, settings
from vlp_jax.costs import inputs


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(
  "path",
  [
    # Their twins are slow to make.
    pytest.param("configs/bert/pretrain.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/videobert/pretrain.py:runlocal", marks=pytest.mark.slow),
    "configs/coin/linear.py:runlocal",
    "configs/crosstask/weak.py:runlocal",
    "configs/howto100m/pretrain.py:runlocal",
    "configs/mmv/fac.py:runlocal",
    "configs/speech/words.py:runlocal",
    "configs/uniter/nlvr.py:runlocal",
  ],
)
def test_keys_shapes_and_dtypes_agree(path):
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location("config", helpers.ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  s = settings.load(settings.with_twins(settings.plain(module.get_config(arg))))
  vocab, tokeniser = settings.vocabulary(s)
  model = resolve.model(s.model, inject={"vocab": vocab, "vocab_size": vocab.size})
  given = s.task_input(list(s.tasks)[-1])
  real = next(batches.build(given, vocab=tokeniser))
  for column in ("gallery", "fold", "speaker", "group"):  # of generated indices
    real.pop(f"label_{column}", None)
  sizes = {}
  if given["task"] == "text_regions":  # of a rung: the data's own, not the longest
    sizes = {"L": real["text_ids"].shape[1], "R": real["regions_mask"].shape[1]}
    sizes["M"] = real["fuse_index"].shape[1]
  if given.get("labels") == "steps":  # the longest task is the data's
    sizes = {"K": real["label_steps"].shape[1]}
  got = inputs.batch(model, given, sizes=sizes)
  look = lambda batch: {k: (x.shape, str(x.dtype)) for k, x in batch.items()}
  assert look(got) == look(real)
