"""Eight virtual CPU devices for every test, set before jax starts."""

import os

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
flags = os.environ.get("XLA_FLAGS", "")
if "device_count" not in flags:
  flags += " --xla_force_host_platform_device_count=8"
if "optimization_level" not in flags:  # most of the time is compiling: a quarter less
  flags += " --xla_backend_optimization_level=1"
os.environ["XLA_FLAGS"] = flags.strip()


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
  """Generated stand-ins made anew by this code, once a session."""
  before = os.environ.get("VLP_JAX_CACHE")
  os.environ["VLP_JAX_CACHE"] = str(tmp_path_factory.mktemp("twins"))
  yield
  if before is None:
    del os.environ["VLP_JAX_CACHE"]
  else:
    os.environ["VLP_JAX_CACHE"] = before
