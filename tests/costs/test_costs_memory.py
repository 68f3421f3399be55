"""Memory by formula against compiled steps on CPU, the configs of launch.bench.cost."""

import pytest

from launch.bench import cost
from tests import helpers


@pytest.mark.slow
@pytest.mark.parametrize("path", cost.COMPARED)
def test_temporaries_of_a_compiled_step(path, monkeypatch):
  monkeypatch.chdir(helpers.ROOT)
  estimated, compiled = cost.memory(*cost.built(path))
  assert estimated == pytest.approx(compiled, rel=0.15)
