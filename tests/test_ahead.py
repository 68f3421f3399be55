"""Steps compiled before the first one; after it nothing compiles, nothing is copied."""

import jax
import numpy as np
import pytest
from jax._src import monitoring

from data_pipelines import batches, vocabularies
from launch import command
from tests import toy
from vlp_jax import ahead, resolve, settings, sources, train
from vlp_jax.errors import UserError

COMPILE = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compiled():
  """The seconds of all compiles from here on."""
  found = []

  def listen(event, seconds, **_):
    if event == COMPILE:
      found.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  monitoring.unregister_event_duration_listener(listen)


@pytest.fixture
def guarded():
  """Iterators that forbid implicit copies once so many batches were taken."""

  class Guarded:
    def __init__(self, source, after, then):
      self.source, self.left, self.then = source, after, then
      self.get_state, self.shapes = source.get_state, source.shapes

    def __iter__(self):
      return self

    def __next__(self):
      self.left -= 1
      if self.left < 0:
        jax.config.update("jax_transfer_guard", "disallow")
        self.then()
      return next(self.source)

  yield Guarded
  jax.config.update("jax_transfer_guard", "allow")


def toys(monkeypatch):
  real = resolve.module
  fake = lambda place, name: toy if name == "toy" else real(place, name)
  monkeypatch.setattr(resolve, "module", fake)
  monkeypatch.setattr(toy, "VARIANTS", {"mu": {}}, raising=False)
  return {
    "model": {"name": "toy", "variant": "mu"},
    "tasks": {
      "one": {"objective": "toy:classify"},
      "two": {"objective": "toy:classify", "coef": 0.5},
    },
    "optim": {"name": "adam", "lr": 1e-2},
    "total_steps": 30,
    "log_every": 5,
    "compile_ahead": True,
    "tensorboard": False,
  }


def ladder():
  """Batches of 16 rows of 3 regions, and of 24 rows of 2."""
  long, other = toy.batches(2), toy.batches(2, rows=24, seed=1)
  cut = lambda b: {k: x[:, :2] if k.startswith("regions") else x for k, x in b.items()}
  return sources.Cycle([*long, *map(cut, other)])


@pytest.mark.multidevice
def test_after_the_start_nothing_compiles_and_nothing_is_copied(
  monkeypatch, compiled, guarded, capsys
):
  given, counts = toys(monkeypatch), []
  as_they_come = given | {"compile_ahead": None}
  plain = train.run(as_they_come, data=ladder(), devices=jax.devices()[:2])
  data = guarded(ladder(), after=12, then=lambda: counts.append(len(compiled)))
  out = train.run(given, data=data, devices=jax.devices()[:2])
  told = capsys.readouterr().out
  assert "compiled 4/4: " in told
  assert "16 rows, regions 3" in told
  assert "24 rows, regions 2" in told
  assert len(counts) >= 12
  assert counts[0] == len(compiled)
  jax.tree.map(np.testing.assert_array_equal, plain.state.params, out.state.params)


def test_short_runs_compile_as_they_go():
  assert not ahead.wanted(None, ahead.LONG - 1)
  assert ahead.wanted(None, ahead.LONG)
  assert ahead.wanted(True, 1)
  assert not ahead.wanted(False, 10**6)


def test_what_does_not_fit_is_named(monkeypatch):
  error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.0G of 15.7G hbm")

  class Step:
    def lower(self, *_):
      return self

    def compile(self):
      raise error

  batch = {"text_mask": jax.ShapeDtypeStruct((512, 64), bool)}
  with pytest.raises(UserError, match=r"mlm, 512 rows, text 64: .* 21\.5 GB"):
    ahead.compile_steps(
      {"mlm": Step()}, {"mlm": [batch]}, None, None, flops=len, say=print
    )


INPUTS = {
  "ladder": {},
  "packed": dict(pack=64, max_rungs=8),
  "mixture": dict(mixture={"a": dict(rate=2), "b": dict(rate=1, tokens=2_048)}),
}


@pytest.mark.parametrize(
  "kind",
  [
    "ladder",
    pytest.param("packed", marks=pytest.mark.slow),
    pytest.param("mixture", marks=pytest.mark.slow),
  ],
)
def test_shapes_are_those_of_the_batches_that_come(twins, kind):
  place = resolve.module("data_pipelines.synthetic", "twins").place
  given = dict(task="text_regions", dir=place("synthetic/scenes"), split="train")
  given |= dict(tokens=1_024, max_rungs=3) | INPUTS[kind]
  vocab = vocabularies.build(
    dict(name="wordpiece", file=place("synthetic/scenes/vocab.txt"))
  )
  stream = batches.build(given, vocab=vocab)
  told = [repr(sorted(s.items())) for s in stream.shapes()]
  came = set()
  for _ in range(40):
    batch = next(stream)
    came.add(repr(sorted((k, (x.shape, x.dtype)) for k, x in batch.items())))
  assert came == set(told)
  assert len(told) == {"ladder": 3, "packed": 1, "mixture": 6}[kind]


@pytest.mark.slow
@pytest.mark.multidevice
def test_an_epoch_of_a_ladder_and_tasks_compiles_nothing(twins, compiled, guarded):
  """UNITER on its twin: two tasks, a mixture of data sets, the rungs of a ladder."""
  config = command.config_of("configs/uniter/pretrain.py:runlocal")
  given = settings.plain(config)
  given["tasks"] = {k: given["tasks"][k] for k in ("mlm", "mrfr")}
  given["input"] |= dict(max_rungs=2, mixture={"a": dict(rate=2), "b": dict(rate=1)})
  given |= dict(total_steps=60, log_every=10, compile_ahead=True, evals={})
  given["checkpoint"]["every"] = 60
  run = train.Run(given, devices=jax.devices()[:2])
  counts = []
  (key,) = run.sources.iterators
  whole = run.sources.iterators[key]
  then = lambda: counts.append(len(compiled))
  run.sources.iterators[key] = guarded(whole, after=20, then=then)
  run.train()
  assert len(counts) >= 30
  assert counts[0] == len(compiled)
