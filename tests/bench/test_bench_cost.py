"""The benchmark of launch.cost's formulas: what it says where a goal is missed."""

import pytest

from launch.bench import cost
from tests import helpers


def test_a_missed_goal_is_said():
  good, bad = cost.facts("memory", 90.0, 100.0), cost.facts("memory", 100.0, 60.0)
  assert (good["off"], good["meets_goal"]) == (pytest.approx(0.1), True)
  assert (bad["ratio"], bad["meets_goal"]) == (0.6, False)
  assert bad["off"] == pytest.approx(2 / 3)  # of what is compiled
  lines = [good | {"case": "a"}, bad | {"case": "b"}]
  all_of = cost.worst("memory", lines)
  assert (all_of["at"], all_of["missed"], all_of["meets_goal"]) == ("b", 1, False)
  assert cost.worst("memory", lines[:1])["meets_goal"]
  assert cost.facts("flops", 1.0, 1.03)["meets_goal"] is False


def test_what_was_recorded_for_tpu_is_told_as_it_is():
  told = cost.recorded()
  assert told["convolutions"] == [0.65, 2.7]
  assert told["meets_goal"] is False


def test_configs_are_there():
  every = cost.COMPARED
  assert all((helpers.ROOT / path.partition(":")[0]).is_file() for path in every)
  quick = [p for p in every if p.startswith(cost.QUICK)]
  assert len(quick) == len(cost.QUICK)


def test_flops_of_a_compiled_forward_pass(monkeypatch):
  monkeypatch.chdir(helpers.ROOT)
  job, task = cost.built("configs/howto100m/pretrain.py:runlocal")
  estimated, compiled = cost.flops(job, task)
  assert estimated == pytest.approx(compiled, rel=0.02)
