"""Mixtures over data sets: exact rates, exact resume, equal on every host."""

import json

import numpy as np
import pytest

from data_pipelines import batches, mixture, plan
from tests.reference import shards
from vlp_jax import errors, settings


class Counting:
  """Batches 0, 1, 2, ... of one source."""

  def __init__(self, name, num=5):
    self.name, self.at, self.num_examples, self.rungs = name, 0, num, ((8, 4),)
    self.bad = {}

  def __next__(self):
    self.at += 1
    return {"from": self.name, "number": self.at - 1}

  def get_state(self):
    return {"at": self.at}

  def set_state(self, state):
    self.at = state["at"]


def counting(**rates):
  return mixture.Mixture({name: Counting(name) for name in rates}, rates)


def test_rates_are_exact_and_members_run_without_gap():
  made = counting(a=3, b=1, c=0.5)
  seen = shards.take(made, 4500)
  for name, share in (("a", 3), ("b", 1), ("c", 0.5)):
    own = [b["number"] for b in seen if b["from"] == name]
    assert own == list(range(len(own)))
    assert abs(len(own) - 4500 * share / 4.5) <= 5
  one = [b["from"] for b in seen[:1000]]
  assert [b["from"] for b in seen[1000:2000]] == one  # a period of a thousand
  assert made.num_examples == 15
  assert made.rungs == ((8, 4),)


def test_resume_at_any_step_is_exact():
  whole = shards.take(counting(a=2, b=1), 60)
  for step in (0, 1, 7, 59):
    made = counting(b=1, a=2)  # the order of the names does not matter
    shards.take(made, step)
    state = json.loads(json.dumps(made.get_state()))
    other = counting(a=2, b=1)
    other.set_state(state)
    assert shards.take(other, 60 - step) == whole[step:]
  with pytest.raises(errors.CheckpointError, match="members or rates changed"):
    counting(a=1, b=1).set_state(state)
  with pytest.raises(errors.CheckpointError, match="plan None"):
    counting(a=1, b=1).set_state({"window": 0})


def test_every_host_takes_the_same_turns():
  """The slots are the planner's own: no second arithmetic."""
  slots = plan.Slots([2, 1])
  want = ["ab"[slots.task(t)[0]] for t in range(50)]
  assert [b["from"] for b in shards.take(counting(a=2, b=1), 50)] == want


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  dirs = [
    shards.statements(tmp_path_factory.mktemp(name), num)
    for name, num in (("first", 40), ("second", 24))
  ]
  members = {
    "first": dict(dir=str(dirs[0]), rate=2),
    "second": dict(dir=str(dirs[1]), rate=1, pack=64),
  }
  return dict(task="text_regions", split="train", rows=4, mixture=members)


def test_a_mixture_of_data_sets_by_config(given):
  make = lambda **more: batches.build(given, vocab=shards.pieces(), seed=3, **more)
  made = make()
  assert made.num_examples == 64
  assert made.rungs == ((40, 4), (64, 4))
  first = shards.take(made, 6)
  assert [b["example_id"].ndim for b in first].count(2) == 2  # the packed member
  state = json.loads(json.dumps(made.get_state()))
  assert len(json.dumps(state)) < 1000
  want = shards.take(made, 5)
  hosts = [make(host=h, num_hosts=2) for h in range(2)]
  for host in hosts:
    host.set_state(state)
  for whole, *parts in zip(want, *(shards.take(h, 5) for h in hosts), strict=True):
    for key, x in whole.items():
      np.testing.assert_array_equal(x, np.concatenate([p[key] for p in parts]))
  state["members"]["first"]["data"] = "0" * 64
  with pytest.raises(errors.CheckpointError, match="data position"):
    made.set_state(state)


@pytest.mark.parametrize(
  ("members", "message"),
  [
    ({"a": dict(dir="x")}, r"mixture\.a\.rate is None"),
    ({"a": dict(dir="x", rate=0)}, "must be positive"),
    ([dict(dir="x", rate=1, spilt="y")], r"mixture\.0: unknown key 'spilt'"),
    ({"a": dict(rate=1, mixture={"b": {}})}, "mixture of mixtures"),
    ({"a": "x"}, "rate is None"),
  ],
)
def test_mistakes_are_one_line(members, message):
  given = dict(task="text_regions", dir="y", split="train", rows=4, mixture=members)
  with pytest.raises(errors.UserError, match=message) as caught:
    batches.build(given)
  assert "\n" not in str(caught.value)
  with pytest.raises(errors.UserError, match=message):
    batches.check(given)


def test_evaluation_takes_one_member(given):
  with pytest.raises(errors.UserError, match="one by one"):
    batches.evaluation(given, vocab=shards.pieces())
  one = given | dict(mixture=None, dir=given["mixture"]["first"]["dir"])
  assert len(list(batches.evaluation(one, vocab=shards.pieces()))) == 10


def test_the_data_of_every_member_is_looked_for(given):
  settings.check_input("input", given)
  gone = given["mixture"] | {"third": dict(dir="/none", rate=1)}
  with pytest.raises(errors.UserError, match=r"input\.mixture\.third\.dir=/none holds"):
    settings.check_input("input", given | dict(mixture=gone))
