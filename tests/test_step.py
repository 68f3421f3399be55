"""The step: exact accumulation, devices, one all-reduce, non-finite policy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import toy
from vlp_jax import settings, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.errors import UserError
from vlp_jax.objectives import contrastive


def prepared(devices=1, micro=1, tx=None, mesh=None, model=None, objective=None):
  mesh = sharding.mesh(mesh, jax.devices()[:devices])
  model = model or toy.Model()
  make, _, shardings, tx = state_lib.init(model, lambda _: tx or optax.adam(1e-2), mesh)
  step = step_lib.build(
    objective or toy.classify,
    apply=state_lib.make_apply(model),
    tx=tx,
    mesh=mesh,
    shardings=shardings,
    micro=micro,
  )
  return make(), step, mesh


def trained(steps, dtype=np.float32, **given):
  state, step, mesh = prepared(**given)
  if dtype == np.float64:
    state = jax.tree.map(
      lambda x: x.astype(dtype) if x.dtype == np.float32 else x, state
    )
  losses = []
  for batch in toy.batches(4, dtype=dtype) * (steps // 4):
    state, means = step(state, sharding.put(batch, mesh), jax.random.key(0))
    losses.append(float(means["loss"].value))
  return state, np.array(losses)


@pytest.mark.multidevice
@pytest.mark.parametrize(
  "given",
  [
    dict(devices=2),
    dict(devices=8),
    dict(micro=4),
    dict(devices=2, micro=2),
    dict(devices=8, micro=2, mesh=dict(data=4, fsdp=2)),
    dict(devices=8, mesh=dict(data=2, fsdp=2, model=2)),
  ],
)
def test_twenty_steps_equal_one_device_in_float64(given):
  with jax.enable_x64(True):
    want, want_losses = trained(20, np.float64)
    got, losses = trained(20, np.float64, **given)
    np.testing.assert_allclose(losses, want_losses, rtol=1e-9)
    for a, b in zip(
      jax.tree.leaves(got.params), jax.tree.leaves(want.params), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
  assert want_losses[-4:].mean() < 0.7 * want_losses[:4].mean()


def test_terms_divide_by_weights_of_the_whole_batch():
  """Against a loop in numpy: mean cross entropy and the second term, other weights."""
  state, step, mesh = prepared(micro=4)
  batch = toy.batches(1)[0]
  out = toy.Model().apply({"params": state.params}, batch)["logits"]
  logits, rows = np.asarray(out, np.float64), range(len(out))
  real = [i for i in rows if batch["example_mask"][i]]
  xent = [np.log(np.exp(logits[i]).sum()) - logits[i][batch["label"][i]] for i in real]
  odd = [(logits[i] ** 2).mean() * batch["regions_mask"][i].sum() for i in real]
  want = np.mean(xent) + 0.1 * np.sum(odd) / batch["regions_mask"].sum()
  _, means = step(state, sharding.put(batch, mesh), jax.random.key(0))
  np.testing.assert_allclose(means["loss"].value, want, rtol=1e-5)


@pytest.mark.multidevice
def test_one_gradient_all_reduce_a_step():
  """Microbatches add no all-reduce of gradients: none stands inside the loop."""
  state, step, mesh = prepared(devices=8, micro=2)
  batch = sharding.put(toy.batches(1)[0], mesh)
  text = step.lower(state, batch, jax.random.key(0)).compile().as_text()
  loops = [part for part in text.split("\n\n") if part.lstrip().startswith("%")]
  inside = [p for p in loops if "all-reduce" in p and "f32[8,16]" in p]
  assert not inside, "a gradient is reduced inside a loop body"
  assert "all-reduce" in text


def test_a_bad_step_changes_nothing_and_is_counted():
  state, step, mesh = prepared()
  batch = toy.batches(1)[0]
  before = jax.device_get(state)
  bad = batch | {"regions_features": np.full_like(batch["regions_features"], np.nan)}
  state, means = step(state, sharding.put(bad, mesh), jax.random.key(0))
  for name in ("params", "opt_state", "mutable"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(state, name), getattr(before, name)
    )
  assert [int(x) for x in (state.step, state.skipped, state.bad_in_row)] == [1, 1, 1]
  assert all(np.isfinite(m.total) and m.weight == 0 for m in means.values())
  state, _ = step(state, sharding.put(batch, mesh), jax.random.key(0))
  assert [int(x) for x in (state.step, state.skipped, state.bad_in_row)] == [2, 1, 0]


def test_after_ten_bad_steps_even_good_ones_change_nothing():
  state, step, mesh = prepared()
  good = toy.batches(1)[0]
  bad = good | {"regions_features": np.full_like(good["regions_features"], np.inf)}
  before = jax.device_get(state.params)
  for _ in range(step_lib.BAD_IN_ROW):
    state, _ = step(state, sharding.put(bad, mesh), jax.random.key(0))
  state, _ = step(state, sharding.put(good, mesh), jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, state.params, before)
  assert int(state.bad_in_row) == step_lib.BAD_IN_ROW + 1
  terms, modules = step.diagnose(state, sharding.put(bad, mesh), jax.random.key(0))
  assert "xent" in terms
  assert any("Dense_0" in m for m in modules)


def test_padding_rows_only_give_zero_loss_and_finite_gradients():
  state, step, mesh = prepared()
  batch = toy.batches(1)[0]
  batch = batch | {
    "example_mask": np.zeros(16, bool),
    "regions_mask": np.zeros((16, 3), bool),
  }
  state, means = step(state, sharding.put(batch, mesh), jax.random.key(0))
  assert float(means["loss"].value) == 0.0
  assert float(means["grad_norm"].value) == 0.0
  assert int(state.skipped) == 0


def test_objectives_over_the_whole_batch_refuse_microbatches():
  def compare(apply, variables, batch, key):
    return toy.classify(apply, variables, batch, key)

  compare.global_batch = True
  with pytest.raises(UserError, match=r"micro=2 would change the loss. Set micro=1\.$"):
    prepared(micro=2, objective=compare)
  # The remedy is named where there is one.
  bound = settings.with_hooks(functools.partial(contrastive.mil_nce, tau=0.1))
  with pytest.raises(UserError, match=r'or objective="cached_contrastive:mil_nce"\.$'):
    prepared(micro=2, objective=bound)


def test_what_model_and_objective_refuse_in_tracing_is_one_line():
  def groups(apply, variables, batch, key):
    raise ValueError("BatchNorm cannot cut 16 rows into 5 groups.")

  state, step, mesh = prepared(objective=groups)
  batch = sharding.put(toy.batches(1)[0], mesh)
  for call in (step, step.lower):  # training, and launch.cost --compile
    with pytest.raises(UserError, match=r"^tasks.task: BatchNorm.*5 groups") as error:
      call(state, batch, jax.random.key(0))
    assert isinstance(error.value.__cause__, ValueError)


def test_batch_statistics_run_through_the_microbatches():
  state, step, mesh = prepared(micro=2, model=toy.Model(statistics=True))
  before = jax.device_get(state.mutable)
  state, _ = step(state, sharding.put(toy.batches(1)[0], mesh), jax.random.key(0))
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.mutable, before)
  assert min(jax.tree.leaves(moved)) > 0
