"""Eight virtual CPU devices and one cache of compiled code, set before jax starts."""

import os
import pathlib

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
flags = os.environ.get("XLA_FLAGS", "")
if "device_count" not in flags:
  flags += " --xla_force_host_platform_device_count=8"
# Most of the time is compiling: less than half with neither LLVM's passes nor MLIR's.
if "optimization_level" not in flags:
  flags += " --xla_backend_optimization_level=0"
if "fusion_emitters" not in flags:
  flags += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = flags.strip()
# What one test compiled, another test, its children and the next run need not.
CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


# Files that take long come first, so that no process is left alone with one at the end.
LONG = (
  "tests/test_configs.py",
  "tests/test_devices.py",
  "tests/faults/test_runs.py",
  "tests/test_train.py",
  "tests/test_notebooks.py",
  "tests/objectives/test_siamese_objectives.py",
  "tests/objectives/test_packed_rows.py",
  "tests/objectives/test_cluster.py",
  "tests/models/test_mmv.py",
  "tests/data_pipelines/test_vcr_and_refcoco.py",
  "tests/data_pipelines/test_text_regions.py",
)


def pytest_collection_modifyitems(items):
  place = lambda item: item.nodeid.partition("::")[0]
  items.sort(key=lambda i: LONG.index(place(i)) if place(i) in LONG else len(LONG))


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
