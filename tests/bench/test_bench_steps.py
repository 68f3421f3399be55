"""Benchmarks that time steps run on the smallest shapes and report what they say."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from launch.bench import checkpoints, dropout, step, timing, workload
from launch.bench.peers import plain_linen
from vlp_jax.errors import UserError

MINI = workload.SIZES["mini"]


def test_the_peer_is_the_same_network():
  """Parameters of plain linen and ours agree in number, up to our unused mask rows."""
  size = dataclasses.replace(MINI, region_dim=32)
  net, batch = plain_linen.Net(size), workload.batch(size)
  theirs = jax.eval_shape(net.init, jax.random.key(0), batch)
  ours = workload.training(size).abstract.params
  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  assert count(theirs) + 2 * size.region_dim == count(ours)


@pytest.mark.slow
def test_both_take_steps():
  found = step.measure("mini", rounds=2, steps=1)
  wanted = dict.fromkeys(("ours", "all states", "linen"), (2,))
  assert {k: s.shape for k, s in found.items()} == wanted
  assert all((s > 0).all() for s in found.values())


def test_ratios_and_goals_of_the_step(capsys):
  found = {"ours": [2.0, 1.0], "linen": [3.0, 2.0], "torch a": [9.0, 1.0]}
  found |= {"torch b": [1.0, 4.0]}
  lines = step.report("tiny", {k: np.array(s) for k, s in found.items()}, 0)
  by = {line["case"]: line for line in lines}
  assert by["tiny linen"]["times_faster"] == 1.75
  assert by["tiny linen"]["met"]
  # The faster of the two in each round: 1 / 2 and 1 / 1.
  assert by["tiny torch"]["times_faster"] == 0.75
  assert not by["tiny torch"]["met"]
  assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_missing_torch_is_said():
  with pytest.raises(UserError, match=r"--torch=/no/python.*no such program"):
    step.Torch("/no/python", {}, 1)


def test_a_peer_process_answers_rounds(tmp_path, monkeypatch):
  """Against a stand-in for the PyTorch peer, which is not installed here."""
  (tmp_path / "torch_eager.py").write_text(
    "import json, sys\n"
    "given = json.loads(sys.argv[1])\n"
    "print('ready', '2.0', flush=True)\n"
    "for line in sys.stdin:\n"
    "  print(int(line) * given['width'], flush=True)\n"
  )
  monkeypatch.setattr(step, "PEERS", tmp_path)
  peer = step.Torch(sys.executable, {"width": 0.5}, 3)
  assert (peer.version, peer(), peer()) == ("2.0", 1.5, 1.5)
  peer.close()
  (tmp_path / "torch_eager.py").write_text("raise SystemExit(3)")
  with pytest.raises(UserError, match="ended with code 3"):
    step.Torch(sys.executable, {}, 1)


def test_cases_may_bring_their_own_seconds():
  answers = iter([9.0, 1.0, 2.0])
  found = timing.alternate({"a": lambda: next(answers)}, 2, clock=None)
  assert found["a"].tolist() == [1.0, 2.0]


def test_the_cost_of_dropout_is_its_share_of_a_round_without():
  cost = dropout.costs({"none": np.array([2.0, 4.0]), "rbg": np.array([2.1, 4.0])})
  assert {k: x.round(6).tolist() for k, x in cost.items()} == {"rbg": [0.05, 0.0]}


@pytest.mark.slow
def test_dropout_is_compared_with_none():
  made = dropout.cases(MINI, ("rbg",))
  losses = {}
  for name, training in made.items():
    training.state = training.make()
    _, means = training.step(training.state, training.batch, training.key)
    losses[name] = float(means["loss"].value)
  assert np.isfinite(list(losses.values())).all()
  assert losses["none"] != losses["rbg"]


def test_saves_are_timed(tmp_path):
  made = workload.training(MINI)
  found = checkpoints.measure(made, tmp_path, saves=2, every=2)
  assert found["state_mb"] > 0.3
  assert found["goal"] >= 50
  assert 0 < found["median_blocked_ms"] <= found["blocked_ms"] <= 1e3 * found["save_s"]
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2"]


def test_the_torch_peer_is_a_program_of_its_own():
  """It needs this project for nothing: it parses, and asks for torch alone."""
  file = step.PEERS / "torch_eager.py"
  code = "import sys; sys.modules['torch'] = None; import runpy; runpy.run_path({!r})"
  done = subprocess.run(
    [sys.executable, "-c", code.format(str(file))],
    capture_output=True,
    text=True,
    input=json.dumps({}),
  )
  assert done.returncode == 1
  assert "torch" in done.stderr.splitlines()[-1]
