"""What a forward pass holds at once, counted by hand in arrays of [8, 8] float32."""

import jax
import jax.numpy as jnp
import pytest

from vlp_jax.costs import liveness, memory

ONE = 8 * 8 * 4  # bytes


def held(fn, *, kept=(), platform="tpu"):
  """`peak` in arrays; `kept` are places among the results of fn(x)."""
  jaxpr = jax.make_jaxpr(fn)(jnp.zeros((8, 8))).jaxpr
  left = [jaxpr.outvars[i] for i in kept]
  return liveness.peak(jaxpr, left, platform=platform, of=memory.size) / ONE


def chain(x):
  return jax.nn.relu(x @ x * 2.0) @ x


def branches(x):
  a, b = x @ x, jnp.exp(x) @ x
  return (a + b) @ x


def test_arithmetic_is_made_inside_of_its_reader_but_on_cpu_of_a_matmul():
  assert held(chain) == 2  # the product and the next one
  assert held(branches) == 3  # both products live on while their sum is read
  assert held(branches, platform="cpu") == 3  # exp(x), and the products
  wide = lambda x: jnp.concatenate([x, x, x], 1) @ jnp.concatenate([x, x, x], 0)
  assert (held(wide), held(wide, platform="cpu")) == (1, 7)


def test_cpus_lay_out_the_slices_of_an_array_as_soon_as_it_is_there():
  def columns(x):
    x = x @ x
    return sum(x[:, i : i + 4] @ x[:4] for i in range(5))

  # The product, twice five slices of half an array, and the first result.
  assert held(columns, platform="cpu") == 1 + 5 / 2 + 5 / 2 + 1
  assert held(columns) == 1 + 5  # the product, and results that one sum reads


def test_what_is_kept_stays_to_the_end():
  first = lambda x: (x @ x, jnp.sin(x @ x @ x @ x @ x))
  assert held(first) == 2
  assert held(first, kept=[0]) == 3
  moved = lambda x: (jnp.cos((x @ x).T), jnp.sin(x @ x @ x @ x @ x))
  assert held(moved, kept=[0]) == 3  # made again: its product is what is kept


def test_calls_are_read_as_if_they_were_written_out():
  inner = jax.jit(lambda x: (x @ x) @ x)
  again = jax.checkpoint(lambda x: (x @ x) @ x)
  assert held(lambda x: inner(x) @ x) == 2
  assert held(lambda x: again(x) @ x) == 2
  own = jax.custom_jvp(lambda x: x @ x)
  own.defjvps(lambda t, ans, x: t @ x + x @ t)
  assert held(lambda x: own(x) @ x) == 2


def test_a_loop_holds_its_results_and_one_turn_of_its_body():
  turn = lambda c, _: ((c @ c) @ c, c.sum(0))
  loop = lambda x: jax.lax.scan(turn, x, None, length=4)
  assert held(loop) == pytest.approx(1 + 4 / 8 + 2, abs=0.2)


def test_the_branch_of_the_platform_is_counted():
  lean = lambda x: x + 1.0
  fat = lambda x: jnp.concatenate([x @ x, x @ x], 0)[:8] @ x
  either = lambda x: jax.lax.platform_dependent(x, cpu=fat, default=lean)
  assert held(either) == pytest.approx(0, abs=0.1)  # the number of the platform
  assert held(either, platform="cpu") >= 3
