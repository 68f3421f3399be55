"""A mixture of a ladder and of packed rows: killed anywhere, on any number of hosts."""

import json
import random
import weakref

import numpy as np
import pytest

from data_pipelines import batches, index, mixture, prefetch
from tests.reference import shards
from vlp_jax import batch as contract

SEED, TAKEN, LADDER, PACK = 5, 35, 320, 64
RATES = {"ladder": 3, "packed": 2}


DAMAGED = pytest.param(True, marks=pytest.mark.slow, id="damaged")


@pytest.fixture(scope="module", params=[pytest.param(False, id="good"), DAMAGED])
def given(tmp_path_factory, request):
  """Two sets; a record of each may be damaged, and its spare takes its place."""
  at = tmp_path_factory.mktemp("resume")
  members = {
    "ladder": dict(tokens=LADDER, rate=RATES["ladder"]),
    "packed": dict(rows=8, pack=PACK, rate=RATES["packed"]),
  }
  for name, num in (("ladder", 60), ("packed", 44)):
    members[name]["dir"] = str(shards.statements(at / name, num))
    if request.param:
      shards.flip(index.load(at / name, "train"), 3, at=60)
  return dict(task="text_regions", split="train", mixture=members)


@pytest.fixture(scope="module")
def build(given):
  """A new mixture each time; the members' sources are opened and traced once."""
  opened = batches.build(given, vocab=shards.pieces(), seed=SEED)
  sources = {name: made._source for name, made in opened.sources.items()}

  def make(host=0, num_hosts=1):
    where = dict(seed=SEED, host=host, num_hosts=num_hosts)
    for source in sources.values():
      source.slice(host, num_hosts)
    made = {name: batches.Batches(s, **where) for name, s in sources.items()}
    return mixture.Mixture(made, RATES)

  return make


@pytest.fixture(scope="module")
def whole(build):
  """[(batch, position behind it)] of an unbroken run."""
  made = build()
  return [(next(made), json.dumps(made.get_state())) for _ in range(TAKEN)]


def same(got, want):
  assert got.keys() == want.keys()
  for key, x in want.items():
    assert got[key].dtype == x.dtype, key
    assert got[key].shape == x.shape, key
    assert got[key].tobytes() == x.tobytes(), key


def test_what_is_mixed(given, whole):
  """The others are of use only if both occur in all forms, over several epochs."""
  shapes = {1: set(), 2: set()}
  for batch, _ in whole:
    contract.check(batch)
    shapes[batch["example_id"].ndim].add(batch["fuse_index"].shape)
  assert len(shapes[1]) > 2
  assert shapes[2] == {(8, PACK)}
  assert not all(batch["example_mask"].all() for batch, _ in whole)
  last = json.loads(whole[-1][1])
  assert all(at["window"] > 1 for at in last["members"].values())
  assert max(len(state) for _, state in whole) < 1000


def test_killed_anywhere_the_rest_is_byte_equal(given, build, whole):
  """The loop is killed while a thread has read ahead of what it took."""
  rng, step, made = random.Random(8), 0, build()
  while step < TAKEN:
    loop = prefetch.Prefetch(made)
    until = min(step + rng.randint(1, 9), TAKEN)
    for batch, _ in whole[step:until]:
      same(next(loop), batch)
    text = json.dumps(loop.get_state())
    assert text == whole[until - 1][1]
    loop.close()
    # All is opened anew once; after that what is opened serves, its position does not.
    made = build() if step else batches.build(given, vocab=shards.pieces(), seed=SEED)
    made.set_state(json.loads(text))
    step = until


@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_hold_the_rows_of_one_from_anywhere(build, whole, num_hosts):
  step = random.Random(num_hosts).randint(5, 15)
  hosts = [build(host, num_hosts) for host in range(num_hosts)]
  for host in hosts:
    host.set_state(json.loads(whole[step - 1][1]))
  for batch, state in whole[step : step + 12]:
    parts = [next(host) for host in hosts]
    same({k: np.concatenate([p[k] for p in parts]) for k in batch}, batch)
    assert {json.dumps(host.get_state()) for host in hosts} == {state}


def test_a_source_that_is_dropped_is_freed_at_once(build):
  """Garbage that waits would be collected in a thread that it is to wait for."""
  made = build().sources["ladder"]
  next(made)
  alive = weakref.ref(made)
  del made
  assert alive() is None
