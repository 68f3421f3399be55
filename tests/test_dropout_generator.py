"""`dropout_generator`: other bits for dropout, the same masks of objectives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import errors, settings
from vlp_jax import state as state_lib
from vlp_jax.layers import dropout
from vlp_jax.objectives import masking

KEY = jax.random.key(5)
GENERATORS = ("threefry2x32", "rbg")


class Net(nn.Module):
  """Dropout, and the place of a mask that the objective drew."""

  @nn.compact
  def __call__(self, batch, *, train=False):
    return {"x": dropout.Dropout(0.25)(batch["x"], train=train), "mask": batch["mask"]}


def run(generator, key=KEY):
  apply = state_lib.make_apply(Net(), generator=generator)

  def objective(x, key):
    drawn, _ = masking.draw(key, jnp.ones(500, bool), 0.3, least="first")
    rng = masking.drop_rng(key, jnp.arange(4))
    return apply({}, {"x": x, "mask": drawn}, rng=rng, train=True)[0]

  return jax.jit(objective)(jnp.ones((200, 400)), key)


def test_dropout_is_drawn_by_the_generator_and_masks_are_not():
  plain, threefry, rbg = run(None), *map(run, GENERATORS)
  np.testing.assert_array_equal(plain["x"], threefry["x"])
  np.testing.assert_array_equal(rbg["mask"], plain["mask"])
  assert 0.2 < rbg["mask"].mean() < 0.4
  kept = rbg["x"] > 0
  # 80,000 draws: six standard errors.
  assert abs(kept.mean() - 0.75) < 6 * np.sqrt(0.75 * 0.25 / kept.size)
  np.testing.assert_allclose(rbg["x"][kept], 1 / 0.75, rtol=1e-6)
  assert 0.5 < (kept == (plain["x"] > 0)).mean() < 0.7  # 0.75^2 + 0.25^2
  np.testing.assert_array_equal(run("rbg")["x"], rbg["x"])
  assert (run("rbg", jax.random.key(6))["x"] != rbg["x"]).any()


def test_an_unknown_one_is_refused():
  given = dict(model={}, tasks={}, optim={}, total_steps=1)
  with pytest.raises(
    errors.UserError, match=r"dropout_generator.*'threefry2x32', 'rbg'"
  ):
    settings.load(given | {"dropout_generator": "xorshift"})
