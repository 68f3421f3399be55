"""The choice of rematerialisation with real compiles of a small Transformer on CPU."""

import jax
import pytest

from vlp_jax.costs import job, remat, report, request


def config(**model):
  vocab = dict(size=64, cls_id=2, sep_id=3, mask_id=4, special_ids=(0, 1, 2, 3, 4))
  net = dict(name="bert", variant="mu", depth=6, heads=("mlm",), dropout=0.0)
  return dict(
    model=net | model,
    vocab=vocab,
    tasks=dict(mlm=dict(objective="masked:mlm", max_masked=2)),
    input=dict(task="sentences", unit="plain", rows=32, max_words=48),
    optim=dict(name="sgd", lr=1e-3),
    total_steps=10,
  )


@pytest.fixture(scope="module")
def sizes():
  """{policy: bytes of temporaries} as the compiler tells them."""
  made = job.build(config(), jax.devices()[:1])
  step = lambda policy: made.lower("mlm", model=made.model.clone(remat=policy))
  analysis = lambda policy: step(policy).compile().memory_analysis()
  return {p: analysis(p).temp_size_in_bytes for p in remat.POLICIES}


def test_more_recompute_takes_less_memory(sizes):
  assert sizes["full"] < 0.8 * sizes["dots"] < 0.7 * sizes["none"]


@pytest.mark.parametrize(
  ("start", "room", "tried"), [("none", "dots", 2), ("full", "none", 1)]
)
def test_the_least_recompute_that_fits_is_found(sizes, start, room, tried):
  """From the least on, whatever the config says; its own is compiled beside it."""
  asked = request.Request(compile=start == "none", remat_gb=(sizes[room] + 1) / 1e9)
  out = request.answer(config(remat=start), asked)
  assert out["remat"]["policy"] == room
  assert out["remat"]["temporary"] == dict(list(sizes.items())[:tried])
  assert f"least recompute: model.remat={room}" in report.table(out)
  if asked.compile:
    assert out["compiled"]["bytes_temporary"] == sizes[start]
    assert out["compiled"]["estimated"] == pytest.approx(sizes[start], rel=0.15)
