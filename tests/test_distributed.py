"""How processes are told of each other: mistakes are one line, before JAX is asked."""

import socket

import jax
import pytest

from vlp_jax import distributed
from vlp_jax.errors import UserError

NAMES = (*distributed.VARIABLES, "VLP_JAX_DISTRIBUTED", "TPU_WORKER_HOSTNAMES")
NAMES += ("SLURM_NTASKS", "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS")


@pytest.fixture
def asked(monkeypatch):
  """What JAX is asked to join; the variables are unset."""
  calls = []
  for name in NAMES:
    monkeypatch.delenv(name, raising=False)
  join = lambda *args, **given: calls.append((args, given))
  monkeypatch.setattr(jax.distributed, "initialize", join)
  monkeypatch.setattr(jax.config, "update", lambda *_: None)
  return calls


def variables(address="127.0.0.1:1", count="2", index="1"):
  return dict(zip(distributed.VARIABLES, (address, count, index), strict=True))


@pytest.mark.parametrize(
  ("given", "says"),
  [
    (variables(count="two"), "NUM_PROCESSES is 'two'; it must be a whole number of at"),
    (variables(count="0"), "NUM_PROCESSES is '0'"),
    (variables(count="-2"), "NUM_PROCESSES is '-2'"),
    (variables(index="5"), "PROCESS_ID is '5'; it must be a whole number from 0 to 1"),
    (variables(index="-1"), "PROCESS_ID is '-1'"),
    (variables("localhost"), "must be host:port of process 0, such as localhost:8476"),
    (variables("localhost:"), "such as localhost:8476"),
    (variables(":8476"), "COORDINATOR_ADDRESS is ':8476'"),
    (variables("a:99999"), "COORDINATOR_ADDRESS is 'a:99999'"),
    (variables() | {"PROCESS_ID": ""}, "set PROCESS_ID as well"),
    ({"VLP_JAX_DISTRIBUTED": "yes"}, "it is 'auto' or not set"),
    ({"SLURM_NTASKS": "x"}, "SLURM_NTASKS is 'x'"),
  ],
)
def test_mistakes_are_told_before_jax_is_asked(asked, monkeypatch, given, says):
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(UserError) as error:
    distributed.start()
  assert says in str(error.value)
  assert "\n" not in str(error.value)
  assert not asked


@pytest.mark.parametrize(
  ("name", "value"), [("VLP_JAX_DISTRIBUTED", "auto"), ("SLURM_NTASKS", "2")]
)
def test_peers_that_jax_cannot_find_are_one_line(asked, monkeypatch, name, value):
  def lost():
    raise ValueError("coordinator_address should be\n defined.")

  monkeypatch.setattr(jax.distributed, "initialize", lost)
  monkeypatch.setenv(name, value)
  says = rf"{name}={value} asks JAX.*should be defined.*Unset it.*or set COORDINATOR"
  with pytest.raises(UserError, match=says) as error:
    distributed.start()
  assert "\n" not in str(error.value)


def test_process_0_needs_its_port_and_others_wait_for_it(asked, monkeypatch):
  monkeypatch.setattr(distributed, "WAIT_S", 0.01)
  with socket.create_server(("", 0)) as other:
    address = f"127.0.0.1:{other.getsockname()[1]}"
    for name, value in variables(address, index="0").items():
      monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"port \d+ cannot be used here"):
      distributed.start()
    monkeypatch.setenv("PROCESS_ID", "1")
    distributed.start()
    assert asked.pop()[0] == (address, 2, 1)
  with pytest.raises(UserError, match=rf"nothing answers at {address}"):
    distributed.start()
  monkeypatch.setenv("PROCESS_ID", "0")
  distributed.start()
  assert asked.pop()[0] == (address, 2, 0)


def test_nothing_is_joined_unless_asked(asked, monkeypatch):
  monkeypatch.setenv("SLURM_NTASKS", "1")
  distributed.start()
  assert not asked
