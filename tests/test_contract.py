"""The batch contract, metrics and the resolution of names."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax import errors, resolve
from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean, Result, Term
from vlp_jax.vocab import Vocab


def good():
  return {
    "text_ids": np.zeros((2, 5), np.int32),
    "text_mask": np.ones((2, 5), bool),
    "regions_features": np.zeros((2, 3, 8), np.float16),
    "regions_boxes": np.zeros((2, 3, 7), np.float32),
    "narration_ids": np.zeros((2, 4, 6), np.int32),
    "video_frames": np.zeros((2, 4, 8, 8, 3), np.uint8),
    "label_action": np.zeros(2, np.int32),
    "example_mask": np.ones(2, bool),
  }


def test_a_good_batch_passes_and_zeros_are_good():
  batch_lib.check(good())
  spec = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in good().items()}
  out = batch_lib.zeros(spec)
  batch_lib.check(out)
  assert out["text_mask"].all()
  assert batch_lib.rows(out) == 2


def test_what_objectives_add_is_of_the_contract():
  """Every key that a model or an objective names beside those of pipelines."""
  made = {
    "mlm_positions": np.zeros((2, 3), np.int32),
    "mlm_ids": np.zeros((2, 5), np.int32),
    "mvm_positions": np.zeros((2, 4), np.int32),
    "clips_mask": np.ones((2, 6), bool),
    "clips_masked": np.zeros((2, 6), bool),
    "pair_text": np.zeros((2, 2), np.int32),
  }
  batch_lib.check(good() | made)
  batch_lib.check(good() | made | {"clips_masked": np.zeros((2, 6, 6), bool)})
  with pytest.raises(ValueError, match="axis T of clips_masked is 5"):
    batch_lib.check(made | {"clips_masked": np.zeros((2, 5), bool)})
  with pytest.raises(TypeError, match="pair_text is float32"):
    batch_lib.check(made | {"pair_text": np.zeros((2, 2), np.float32)})


def test_useful_counts_real_rows_and_their_tokens():
  batch = good()
  batch["text_mask"][0, 3:] = False
  batch["narration_mask"] = np.arange(6) < np.array([2, 0, 1, 6])[:, None] + [[[0]]] * 2
  batch["example_mask"][1] = False
  np.testing.assert_array_equal(batch_lib.useful(batch), [1, 3 + 9])
  del batch["example_mask"]
  np.testing.assert_array_equal(batch_lib.useful(batch), [2, 3 + 5 + 18])


@pytest.mark.parametrize(
  ("key", "value", "error", "message"),
  [
    ("txt_ids", np.zeros((2, 5), np.int32), KeyError, "not of the contract"),
    ("text_ids", np.zeros((2, 5), np.int64), TypeError, "int64"),
    ("text_ids", np.zeros((3, 5), np.int32), ValueError, "axis B"),
    ("text_mask", np.ones((2, 4), bool), ValueError, "axis L of text_mask is 4"),
    ("regions_boxes", np.zeros((2, 3, 4), np.float32), ValueError, "expected"),
    ("regions_boxes", np.zeros((2, 9, 7), np.float32), ValueError, "axis R"),
    ("video_frames", np.zeros((2, 8, 8, 4), np.uint8), ValueError, "expected"),
  ],
)
def test_bad_batches_are_refused(key, value, error, message):
  with pytest.raises(error, match=message):
    batch_lib.check(good() | {key: value})


def test_means_add_up_and_empty_ones_are_zero_with_zero_gradient():
  x = jnp.arange(6.0).reshape(2, 3)
  where = jnp.array([[True, True, False], [False, True, True]])
  whole, parts = Mean.of(x, where), [Mean.of(x[i], where[i]) for i in (0, 1)]
  assert float(whole.value) == float(parts[0].merge(parts[1]).value) == 2.5
  empty = lambda x: Mean.of(x, jnp.zeros(3, bool)).value
  value, grad = jax.value_and_grad(empty)(jnp.full(3, jnp.inf))
  assert value == 0
  np.testing.assert_array_equal(grad, 0)
  assert float(Term(*whole, coef=0.5).value) == 1.25
  assert Mean.of(jnp.ones(4, jnp.bfloat16)).total.dtype == jnp.float32


def test_results_have_an_interval_and_refuse_nothing():
  r = Result.of([1, 0, 1, 1], chance=0.5)
  assert r.value == 0.75
  assert r.n == 4
  assert 0.4 < r.ci < 0.5
  with pytest.raises(ValueError, match="no example"):
    Result.of([])


def test_names_resolve_by_place_with_close_matches():
  assert resolve.module("vlp_jax", "metrics").Mean is Mean
  with pytest.raises(UserError, match=r"Did you mean 'metrics'"):
    resolve.module("vlp_jax", "metric")
  with pytest.raises(UserError, match="file:function"):
    resolve.function("vlp_jax.objectives", "masked")


def test_keywords_are_bound_against_signatures():
  def fn(first, *, rate: float = 0.1, vocab: Vocab, names: tuple[str, ...] = ()):
    return first, rate, vocab.size, names

  vocab = Vocab(size=4)
  bound = resolve.bind(fn, {"rate": 1}, inject={"vocab": vocab, "other": 1}, skip=1)
  assert bound(7) == (7, 1, 4, ())
  with pytest.raises(UserError, match="missing vocab"):
    resolve.bind(fn, {}, skip=1)
  with pytest.raises(UserError, match=r"fn.rate is 'x' \(str\)"):
    resolve.bind(fn, {"rate": "x"}, inject={"vocab": vocab}, skip=1)
  with pytest.raises(UserError, match=r"unknown key 'rat'. Did you mean 'rate'"):
    resolve.bind(fn, {"rat": 1}, inject={"vocab": vocab}, skip=1)


def test_choices_and_ranges_are_told_with_what_is_valid():
  Rate = Annotated[float, resolve.Span(0, 1)]

  def fn(
    *,
    mode: Literal["a", "b"] = "a",
    kind: Literal[None, "x"] = None,
    rate: Rate | None = None,
    count: Annotated[int, resolve.Span(1)] = 1,
  ):
    return mode, kind, rate, count

  assert resolve.bind(fn, dict(mode="b", kind="x", rate=0, count=2))() == (
    "b",
    "x",
    0,
    2,
  )
  assert resolve.bind(fn, dict(kind=None, rate=None))() == ("a", None, None, 1)
  for given, says in (
    (dict(mode="c"), "fn.mode is 'c' (str); it must be one of 'a', 'b'."),
    (dict(kind="y"), "it must be one of None, 'x'."),
    (dict(rate=1.0), "it must be float, at least 0 and below 1 or None."),
    (dict(rate=float("nan")), "fn.rate is nan"),
    (dict(count=0), "fn.count is 0 (int); it must be int, at least 1."),
    (dict(count=1.0), "it must be int, at least 1."),
  ):
    with pytest.raises(UserError) as error:
      resolve.bind(fn, given)
    assert says in str(error.value)


def test_what_tracing_raises_is_one_line_that_keeps_its_cause():
  for raised, says in (
    (ValueError("no\n  good."), "config.model: no good. (--debug shows where)"),
    (KeyError("no 'x' here."), "config.model: no 'x' here. (--debug"),
    (ZeroDivisionError("by 0"), "config.model: ZeroDivisionError: by 0 (--debug"),
  ):
    with pytest.raises(UserError) as error, errors.of_config("config.model"):
      raise raised
    assert says in str(error.value)
    assert error.value.__cause__ is raised
  for raised in (AttributeError("ours"), errors.NumericError("its own code")):
    with pytest.raises(type(raised)), errors.of_config("config.model"):
      raise raised


def test_vocabularies_know_their_bounds():
  v = Vocab(size=10, mask_id=4, special_ids=(0, 4), valid_range=(5, 0))
  assert v.valid_range == (5, 10)
  assert hash(v) == hash(Vocab(10, 0, -1, -1, -1, 4, (0, 4), (5, 10)))
  with pytest.raises(ValueError, match="special id beyond"):
    Vocab(size=4, mask_id=4)
