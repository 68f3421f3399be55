"""The configs of probes: headers, keywords, and a real run on generated clips."""

import importlib.util

import flax.linen as nn
import jax
import pytest

from tests import helpers
from vlp_jax import batch, probing, resolve, restore
from vlp_jax import settings as settings_lib

FILES = sorted(
  p.relative_to(helpers.ROOT).as_posix()
  for p in (helpers.ROOT / "configs" / "probe").glob("*.py")
  if p.name not in ("__init__.py", "common.py")
)
FORMS = [
  "configs/probe/esc50.py:c=0.01",
  "configs/probe/ucf101.py:own",
  "configs/probe/ucf101.py:split=2",
  "configs/probe/ucf101.py:mil_nce,split=1",
  "configs/probe/hmdb51.py:mil_nce",
  "configs/probe/folder.py:kind=sound",
]


def load(path):
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location("config", helpers.ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return settings_lib.plain(module.get_config(arg or None))


@pytest.mark.parametrize("path", [*FILES, *FORMS, *(f"{p}:runlocal" for p in FILES)])
def test_every_keyword_is_known(path):
  pipelines = resolve.module("data_pipelines", "batches")
  config = load(path)
  job = resolve.bind(probing.Job, config, what="config")()
  for name, given in job.evals.items():
    _, inputs, _ = settings_lib.evaluator(name, given)
    for what, mine in inputs.items():
      whole = {k: v for k, v in (dict(job.input) | mine).items() if k != "passes"}
      pipelines.check({"dir": job.data} | whole, f"{path} {what}")


@pytest.mark.parametrize("path", FILES)
def test_every_config_says_how_to_run_it(path):
  text = (helpers.ROOT / path).read_text()
  for part in ("Command:", "Data:", "Protocol:", "--checkpoint X"):
    assert part in text
  assert ("Paper:" in text) or ("Expected:" in text)


@pytest.mark.slow
@pytest.mark.usefixtures("twins")
def test_a_probe_of_generated_clips(tmp_path):
  own = dict(num_frames=4, frame_rate=4.0, size=32)
  tower = dict(
    space_to_depth=(),
    stem_width=4,
    stem_window=(2, 4, 4),
    stem_strides=(2, 4, 4),
    stages=(),
  )
  given = dict(name="classifier", tower="s3d", tower_args=tower, num_classes=2)
  model = resolve.model(given)
  made = jax.jit(lambda: model.init(jax.random.key(0), batch.zeros(model.spec())))()
  restore.export(tmp_path / "x", nn.unbox(made), config=dict(model=given, input=own))
  config = load("configs/probe/ucf101.py:runlocal")
  one = jax.devices()[:1]
  out = probing.run(config, tmp_path / "job", tmp_path / "x", devices=one, quiet=True)
  assert out.results["local/probe_action"].n == 12
  assert (tmp_path / "job/predictions/local.jsonl").exists()
