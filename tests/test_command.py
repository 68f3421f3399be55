"""Changes of a config at the command line: which keys are taken, and which refused."""

import ml_collections
import pytest

from launch import command
from vlp_jax import settings
from vlp_jax.errors import UserError


def config():
  """Short as configs are: most keywords are left at their defaults."""
  c = ml_collections.ConfigDict()
  c.model = dict(name="uniter", variant="mu")
  c.tasks = dict(mlm=dict(objective="masked:mlm"))
  c.optim = dict(name="adamw", lr=1e-3)
  c.vocab = dict(name="wordpiece", file="vocab.txt")
  c.input = dict(task="text_regions", dir="data/x", split="train", rows=8)
  c.evals = dict(loss=dict(evaluator="loss", batches=dict(split="test")))
  c.rounds = dict(new=dict(fn="cluster:xdc_round", every=500))
  c.total_steps = 10
  return c.lock()


@pytest.mark.parametrize(
  ("path", "text", "value"),
  [
    ("model.remat", "full", "full"),
    ("model.dropout", "0.0", 0.0),
    ("model.heads", "('mlm',)", ("mlm",)),
    ("tasks.mlm.rate", "0.3", 0.3),
    ("tasks.mlm.weight", "2", 2),
    ("tasks.mlm.input.max_tokens", "20", 20),
    ("optim.b2", "0.98", 0.98),
    ("optim.warmup", "5", 5),
    ("vocab.cased", "True", True),
    ("input.max_regions", "36", 36),
    ("input.workers", "1", 1),
    ("input.rows", "16", 16),
    ("evals.loss.batches.max_tokens", "9", 9),
    ("rounds.new.whiten", "8", 8),
    ("rounds.new.first", "500", 500),
    ("checkpoint.every", "100", 100),
    ("mesh.fsdp", "2", 2),
    ("init_from.path", "runs/x", "runs/x"),
    ("init_from.override", "True", True),
    ("micro", "2", 2),
  ],
)
def test_keywords_that_the_config_leaves_out_are_taken(path, text, value):
  c = config()
  command.override(c, [f"--config.{path}={text}"])
  node = settings.plain(c)
  for key in path.split("."):
    node = node[key]
  assert node == value
  assert c.is_locked


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("model.remart=full", "--config.model.remart: no 'remart'. Did you mean 'remat'?"),
    ("model.parent=1", "no 'parent'"),
    ("tasks.mlm.rat=0.3", "Did you mean 'rate'"),
    ("tasks.mlm.variables=1", "no 'variables'"),  # what the step gives
    ("tasks.mln.rate=0.3", "no 'mln'. Did you mean 'mlm'"),
    ("tasks.mlm.input.max_token=3", "Did you mean 'max_tokens'"),
    ("optim.warmpu=5", "no 'warmpu'. Did you mean 'warmup'"),
    ("input.max_region=36", "Did you mean 'max_regions'"),
    ("input.vocab=x", "unknown key 'vocab'"),
    ("evals.loss.batchs=1", "Did you mean 'batches'"),
    ("rounds.new.whitn=8", "Did you mean 'whiten'"),
    ("checkpoint.evry=1", "Did you mean 'every'"),
    ("mesh.fdsp=1", "Did you mean 'fsdp'"),
    ("vocab.case=1", "Did you mean 'cased'"),
    ("init_from.pth=x", "no 'pth'. Did you mean 'path'"),
    ("init_from.trees=x", "no 'trees'"),  # the run's own
    ("mdoel.remat=full", "no 'mdoel'. Did you mean 'model'"),
    ("miro=2", "Did you mean 'micro'"),
    ("micro", "write --config.micro=VALUE"),
    ("total_steps.x=1", "total_steps is 10 and has no keys"),
    ("total_steps=many", "total_steps=many"),
  ],
)
def test_other_keys_are_refused_with_the_nearest(change, message):
  c = config()
  before = settings.plain(c)
  with pytest.raises(UserError) as error:
    command.override(c, [f"--config.{change}"])
  assert message in str(error.value)
  assert "\n" not in str(error.value)
  now = settings.plain(c)
  assert {k: v for k, v in now.items() if k in before} == before


def test_a_key_of_another_model_is_no_key_of_this_one():
  c = config()
  with pytest.raises(UserError, match="no 'graph'"):
    command.override(c, ["--config.model.graph=fac"])
  command.override(c, ["--config.model.name=mmv", "--config.model.graph=fac"])
  assert c.model.graph == "fac"
