"""Greedy and beam search against slow ones, on a model that is a table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import decoding as reference
from vlp_jax.layers import decoding

V, STATES, END = 6, 997, 2
TOKENS = decoding.Tokens(begin=1, end=END, pad=0, banned=(0, 1, 2))
TABLE = np.random.default_rng(0).normal(size=(STATES, V)).astype(np.float32) * 2
# Scores depend on the row and on all earlier tokens through a number in 0..996.
after = lambda h, v: (h * 31 + v + 7) % STATES


def step(state, ids):
  h = after(state["h"], ids)
  return jnp.asarray(TABLE)[h] + state["add"], {"h": h, "add": state["add"]}


def model(row):
  def scores(history):
    h = row
    for v in (TOKENS.begin, *history):
      h = after(h, v)
    return TABLE[h]

  return scores


def begin(rows, beam, add=0.0):
  at = jnp.repeat(jnp.asarray(rows, jnp.int32), beam)
  add = jnp.repeat(jnp.broadcast_to(jnp.asarray(add, jnp.float32), len(rows)), beam)
  return {"h": at, "add": add[:, None]}


traced = []


@functools.partial(jax.jit, static_argnums=(0,))
def search(how, state, where):
  traced.append(how)
  return decoding.write(step, state, len(where), TOKENS, how, where=where)


def run(how, rows=tuple(range(8)), where=None, add=0.0):
  where = np.ones(len(rows), bool) if where is None else np.array(where)
  out = search(how, begin(rows, how.beam, add), where)
  return jax.tree.map(np.asarray, out)


def rules(how):
  keys = ("min_length", "no_repeat", "immediate", "repetition", "alpha")
  given = {k: getattr(how, k) for k in keys}
  return given | dict(kind=how.penalty, end=END, banned=TOKENS.banned)


def check(out, wants):
  for i, (text, score) in enumerate(wants):
    assert tuple(out.ids[i][out.mask[i]]) == text
    np.testing.assert_allclose(out.scores[i], score, rtol=1e-5)
    assert (out.ids[i][~out.mask[i]] == TOKENS.pad).all()
    assert list(out.mask[i]) == sorted(out.mask[i], reverse=True)


@pytest.mark.parametrize(
  "given",
  [
    dict(max_length=3, beam=20),
    dict(max_length=4, beam=64, alpha=0.8, min_length=1),
    dict(max_length=4, beam=64, alpha=1.5, penalty="plain", no_repeat=1),
  ],
)
def test_a_beam_that_holds_all_texts_finds_the_best(given):
  how = decoding.Search(**given)
  out = run(how)
  wants = [
    reference.exhaustive(model(r), V, how.max_length, **rules(how)) for r in range(8)
  ]
  check(out, wants)
  assert len({len(text) for text, _ in wants}) > 1  # or lengths were not tested


@pytest.mark.parametrize(
  "given",
  [
    dict(beam=5),
    dict(beam=5, alpha=0.6, min_length=3, no_repeat=2),
    dict(beam=3, alpha=1.0, penalty="plain", immediate=False, repetition=1.7),
    dict(beam=2, no_repeat=3, min_length=11),
  ],
)
def test_a_beam_agrees_with_a_slow_one(given):
  how = decoding.Search(max_length=12, **given)
  out = run(how)
  check(
    out,
    [
      reference.beam(model(r), how.max_length, how.beam, **rules(how)) for r in range(8)
    ],
  )


@pytest.mark.parametrize(
  "given", [dict(), dict(min_length=4, no_repeat=2, repetition=1.3, alpha=1.0)]
)
def test_greedy_agrees_with_a_slow_one(given):
  how = decoding.Search(max_length=9, **given)
  check(run(how), [reference.greedy(model(r), 9, **rules(how)) for r in range(8)])


def test_other_values_compile_nothing_and_rows_do_not_meet():
  how = decoding.Search(max_length=12, beam=5)
  all_rows = run(how)
  before = len(traced)
  order = (3, 1, 0, 2, 7, 6, 5, 4)
  moved = run(how, order, where=[True] * 6 + [False, True])
  assert len(traced) == before
  for i, r in enumerate(order):
    if i == 6:
      assert not moved.mask[i].any()
      assert moved.scores[i] == 0
      assert (moved.ids[i] == TOKENS.pad).all()
      continue
    np.testing.assert_array_equal(moved.ids[i], all_rows.ids[r])
  # A row that is not asked for may hold anything.
  where = np.arange(8) != 2
  sick = run(how, where=where, add=np.where(where, 0.0, np.nan))
  np.testing.assert_array_equal(sick.ids[where], all_rows.ids[where])
  np.testing.assert_array_equal(sick.scores[where], all_rows.scores[where])
  assert np.isfinite(sick.scores).all()


@pytest.mark.parametrize("beam", [1, 4])
def test_it_stops_when_all_rows_are_done(beam):
  calls = []

  def ends_after(state, ids):
    """Row r ends at place r; a row that is not asked for never."""
    jax.debug.callback(lambda: calls.append(1))
    r, t = state["r"], state["t"]
    word = jnp.where(t < r, 4 + t % 2, END)
    return 20.0 * jax.nn.one_hot(word, V), {"r": r, "t": t + 1}

  how = decoding.Search(max_length=30, beam=beam)
  r = jnp.repeat(jnp.array([1, 3, 99]), beam)
  where = jnp.array([True, True, False])

  def write():
    state = {"r": r, "t": jnp.zeros_like(r)}
    return decoding.write(ends_after, state, 3, TOKENS, how, where=where)

  out = jax.jit(write)()
  jax.effects_barrier()
  assert len(calls) == 4
  assert out.mask.sum(axis=1).tolist() == [2, 4, 0]
  assert out.ids[1, :4].tolist() == [4, 5, 4, END]


def test_special_ids_are_never_written_and_nothing_left_means_the_end():
  loud = jnp.array([9.0, 9.0, -9.0, 0.0, 1.0, 0.5])  # pad and begin are likeliest
  say = lambda state, ids: (jnp.broadcast_to(loud, (len(ids), V)), state)
  for beam in (1, 3):
    how = decoding.Search(max_length=9, beam=beam, no_repeat=1, min_length=7)
    write = lambda how=how: decoding.write(say, jnp.zeros(2 * how.beam), 2, TOKENS, how)
    out = jax.jit(write)()
    # Three words, each once; then the end, though seven words were wanted.
    assert out.mask.sum(axis=1).tolist() == [4, 4]
    assert out.ids[:, :4].tolist() == [[4, 5, 3, END]] * 2
    assert np.isfinite(out.scores).all()


def test_a_text_without_an_end_is_cut():
  say = lambda state, ids: (
    jnp.broadcast_to(jnp.array([0.0, 0.0, -30.0, 0.0, 2.0, 0.0]), (len(ids), V)),
    state,
  )
  how = decoding.Search(max_length=4, beam=2, alpha=1.0)
  out = jax.jit(lambda: decoding.write(say, jnp.zeros(2), 1, TOKENS, how))()
  assert out.ids.tolist() == [[4, 4, 4, 4]]
  assert out.mask.all()
  want = 4 * jax.nn.log_softmax(jnp.array([0.0, 0, -30, 0, 2, 0]))[4] / (9 / 6)
  np.testing.assert_allclose(out.scores, [want], rtol=1e-6)


@pytest.mark.parametrize(
  ("given", "match"),
  [
    (dict(max_length=0), "1 or more"),
    (dict(max_length=4, min_length=4), "no place"),
    (dict(max_length=4, alpha=-1.0), "alpha"),
    (dict(max_length=4, penalty="log"), "gnmt"),
  ],
)
def test_bad_searches_are_refused(given, match):
  with pytest.raises(ValueError, match=match):
    decoding.Search(**given)
