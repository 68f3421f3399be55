"""Two passes over microbatches give what the whole batch gives at once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlp_jax import hlo, resolve, settings, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean
from vlp_jax.objectives import cached_contrastive, contrastive

ROWS = 16


class Dual(nn.Module):
  """Means of two streams through dense layers, and a learnt scale."""

  statistics: bool = False
  dropout: float = 0.0

  def spec(self):
    f = jax.ShapeDtypeStruct
    keys = {"clips_features": f((2, 3, 4), jnp.float32), "clips_mask": f((2, 3), bool)}
    wide = {"regions_features": f((2, 3, 6), jnp.float32)}
    return keys | wide | {"regions_mask": f((2, 3), bool)}

  @nn.compact
  def __call__(self, batch, *, train=False):
    out = {}
    for stream in ("clips", "regions"):
      x = batch[f"{stream}_features"]
      x = jnp.where(batch[f"{stream}_mask"][..., None], x, 0).sum(1)
      if self.statistics:
        x = nn.BatchNorm(use_running_average=not train, param_dtype=x.dtype)(x)
      x = nn.Dense(8, param_dtype=x.dtype)(x)
      x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x))
      out[f"{stream}_embed"] = nn.Dense(5, param_dtype=x.dtype)(x)
    scale = self.param("scale", nn.initializers.constant(3.0), ())
    return out | {"logit_scale": scale, "hidden": x}


def rows(dtype=np.float64):
  rng = np.random.default_rng(0)
  mask = rng.random((2, ROWS, 3)) < 0.7
  mask[:, :, 0] = True
  mask[0, 3] = False  # a row without clips
  return {
    "clips_features": rng.normal(size=(ROWS, 3, 4)).astype(dtype),
    "regions_features": rng.normal(size=(ROWS, 3, 6)).astype(dtype),
    "clips_mask": mask[0],
    "regions_mask": mask[1],
    "example_id": np.arange(ROWS, dtype=np.int32),
    "example_mask": np.arange(ROWS) != 9,
  }


def stepped(name, file, devices=1, micro=1, mesh=None):
  """Parameters and means after one step; the compiled text as well."""
  mesh = sharding.mesh(mesh, jax.devices()[:devices])
  model, tx = Dual(), optax.sgd(0.1)
  fn = resolve.function("vlp_jax.objectives", f"{file}:{name}")
  given = {"streams": ("clips", "regions")}
  given |= {} if name == "sigmoid" else {"tau": 0.3}
  objective = settings.with_hooks(resolve.bind(fn, given, skip=4))
  make, _, shardings, tx = state_lib.init(model, lambda _: tx, mesh)
  step = step_lib.build(
    objective,
    apply=state_lib.make_apply(model),
    tx=tx,
    mesh=mesh,
    shardings=shardings,
    micro=micro,
  )
  state = jax.tree.map(lambda x: x.astype(np.float64) if x.ndim else x, make())
  batch, key = sharding.put(rows(), mesh), jax.random.key(0)
  text = step.lower(state, batch, key).compile().as_text() if devices > 1 else ""
  state, means = step(state, batch, key)
  return jax.device_get((state.params, means)), text


@pytest.mark.multidevice
@pytest.mark.parametrize(
  ("name", "given"),
  [
    ("sigmoid", dict(micro=4)),
    ("mil_nce", dict(devices=2, micro=4)),
    ("symmetric", dict(devices=8, micro=2, mesh=dict(dcn=2, data=4))),
  ],
)
def test_a_step_is_that_of_the_whole_batch(name, given):
  with jax.enable_x64(True):
    (want, means), _ = stepped(name, "contrastive")
    (params, found), text = stepped(name, "cached_contrastive", **given)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-11), params, want)
  assert set(found) == set(means)
  for key in means:
    np.testing.assert_allclose(found[key], means[key], rtol=1e-9, err_msg=key)
  assert means[name].weight == ROWS - 2
  if text:  # the gradients travel once, not once a microbatch
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    assert hlo.collectives(text)["all-reduce"]["bytes"] < 1.9 * size


def test_both_passes_drop_alike_and_statistics_are_of_microbatches():
  """Against one gradient through the embeddings of both halves, joined."""
  model = Dual(statistics=True, dropout=0.5)
  apply, key = state_lib.make_apply(model), jax.random.key(3)
  batch = {k: jnp.array(x) for k, x in rows(np.float32).items()}
  variables = model.init(jax.random.key(0), batch)
  params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
  hyper = dict(tau=0.3, streams=("clips", "regions"))
  halves = [{k: x[i : i + 8] for k, x in batch.items()} for i in (0, 8)]

  @jax.jit
  def whole(params):
    seen, state = [], rest
    for half in halves:
      out, new = contrastive.embed(apply, {"params": params, **state}, half, key)
      seen.append(out)
      state = state | new
    names = ("clips_embed", "regions_embed")
    joined = {k: jnp.concatenate([out[k] for out in seen]) for k in names}
    known = lambda *args, **given: (joined, {})
    terms, *_ = contrastive.symmetric(known, {}, batch, key, **hyper)
    return terms["symmetric"].value, state

  (want, state), grads = jax.value_and_grad(whole, has_aux=True)(params)
  run = jax.jit(
    lambda params, rest: cached_contrastive.symmetric.value_and_grad(
      apply, params, rest, batch, key, pieces=step_lib.Pieces(2, 1), **hyper
    )
  )
  found, new, loss, means = run(params, rest)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  assert isinstance(means["symmetric/accuracy"], Mean)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, found, grads)
  jax.tree.map(close, new, state)


def test_it_is_the_plain_objective_elsewhere():
  """Evaluators call it as any other; the keywords are those of the plain one."""
  bound = resolve.bind(cached_contrastive.nt_xent, {"tau": 0.2}, skip=4)
  assert settings.with_hooks(bound).value_and_grad.keywords["tau"] == 0.2
  out = {k: np.ones((ROWS, 2), np.float32) for k in ("clips_embed", "regions_embed")}
  apply, args = lambda *a, **k: (out, {}), ({}, rows(np.float32), jax.random.key(0))
  streams = {"streams": ("clips", "regions")}
  ours = cached_contrastive.nt_xent(apply, *args, **streams)
  theirs = contrastive.nt_xent(apply, *args, **streams)
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  with pytest.raises(UserError, match="unknown key 'tao'"):
    resolve.bind(cached_contrastive.nt_xent, {"tao": 0.2}, skip=4)
