"""Values that no model or objective can take are told before anything is traced."""

import pkgutil
import typing

import pytest

from vlp_jax import models, resolve, settings, sharding
from vlp_jax import state as state_lib
from vlp_jax.errors import UserError
from vlp_jax.layers import fields


def config(model=None, task=None, **given):
  model = {"name": "uniter", "variant": "mu"} | (model or {})
  task = {"objective": "masked:mlm"} | (task or {})
  optim = {"name": "adam", "lr": 1e-3}
  given = {"optim": optim, "total_steps": 500, "log_every": 50} | given
  return {"model": model, "tasks": {"one": task}} | given


def check(given, data_given=True):
  s = settings.load(given)
  settings.check(s, vocab=settings.stand_in(), data_given=data_given)


@pytest.mark.parametrize(
  ("model", "says"),
  [
    ({"remat": "half"}, "remat is 'half' (str); it must be one of 'none', 'dots',"),
    ({"dtype": "bf16"}, "it must be one of 'float32', 'bfloat16'"),
    ({"implementation": "flash"}, "it must be one of None, 'xla', 'cudnn'"),
    ({"act": "swish"}, "it must be one of 'gelu'"),
    (
      {"dropout": 1.5},
      "dropout is 1.5 (float); it must be float, at least 0 and below",
    ),
    ({"attention_dropout": -0.1}, "attention_dropout is -0.1"),
    ({"width": -1}, "width is -1 (int); it must be int, at least 1"),
    ({"num_heads": 0}, "num_heads is 0"),
    ({"name": "mil_nce", "bn_groups": 0}, "bn_groups is 0"),
    ({"name": "mil_nce", "pool_padding": "same"}, "one of 'torch', 'tf'"),
    ({"name": "mmv", "graph": "fca"}, "it must be one of 'fac'"),
    ({"name": "siamese", "tower": "vit"}, "tower is 'vit'"),
    ({"name": "l3", "front_end": "mel"}, "front_end is 'mel'"),
  ],
)
def test_values_of_a_model_are_told_with_what_is_valid(model, says):
  with pytest.raises(UserError) as error:
    check(config(model))
  assert says in str(error.value)


@pytest.mark.parametrize(
  ("task", "says"),
  [
    ({"objective": "contrastive:mil_nce", "positives": "never"}, "one of 'twice', 'on"),
    ({"objective": "cached_contrastive:mil_nce", "positives": "no"}, "one of 'twice'"),
    ({"objective": "mmv:mmv", "form": "round"}, "one of 'asymmetric', 'symmetric'"),
    ({"objective": "match:itm", "negatives": "hard"}, "one of 'swap', 'given'"),
    ({"objective": "masked:mrfr", "reduction": "sum"}, "'sum_over_features'"),
    ({"objective": "masked:mrc_kl", "reduction": "sum"}, "'sum_over_classes'"),
    ({"objective": "answer:refer", "target": "worst"}, "one of 'best', 'soft'"),
    ({"objective": "simclr:simclr", "sides": "both"}, "one of 'added', 'mean'"),
    ({"objective": "simclr:simclr", "stream": "text"}, "one of 'image', 'video'"),
    ({"objective": "cbt:cbt", "mask": "all"}, "one of 'rate', 'each'"),
    ({"objective": "videobert:joint", "negatives": "no"}, "one of 'swap', 'given'"),
  ],
)
def test_choices_of_an_objective_are_told(task, says):
  with pytest.raises(UserError) as error:
    check(config(task=task))
  assert says in str(error.value)


@pytest.mark.parametrize("data_given", [False, True])
@pytest.mark.parametrize(("key", "value"), [("rows", -8), ("rows", 0), ("tokens", 0)])
def test_batches_have_rows(key, value, data_given):
  given = {"task": "text_regions", "dir": "synthetic/coco_vg", "split": "train"}
  given = config(input=given | {key: value})
  with pytest.raises(UserError, match=rf"input.{key}={value}; it must be at least 1"):
    check(given, data_given)


def test_fields_that_do_not_fit_each_other_are_told_before_any_compile():
  """Here by training; launch.cost makes its state by the same function."""
  vocab = settings.stand_in()
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model = resolve.model(config({"num_heads": 3})["model"], inject=inject)
  says = r"config.model: width 64 does not divide by 3 heads; give one of \[1, 2, 4, 8"
  with pytest.raises(UserError, match=says) as error:
    state_lib.init(model, None, sharding.mesh(dict(data=-1)))
  assert isinstance(error.value.__cause__, ValueError)


def test_what_models_share_is_annotated_in_all_of_them():
  shared = {"dtype": fields.Dtype, "dropout": fields.Rate, "bn_groups": fields.Count}
  shared |= {"act": fields.Act, "implementation": fields.Implementation}
  shared |= {"front_end": fields.FrontEnd, "pool_padding": fields.PoolPadding}
  wrong = []
  for info in pkgutil.iter_modules(models.__path__):
    model = resolve.module("vlp_jax.models", info.name).Model
    hints = typing.get_type_hints(model, include_extras=True)
    own = {k: h for k, h in hints.items() if k in shared}
    wrong += [(info.name, k) for k, h in own.items() if h != shared[k]]
  assert not wrong
