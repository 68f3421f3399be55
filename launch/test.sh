#!/usr/bin/env bash
# The tests on a fresh machine: environment, linter, plain tests. Arguments go to pytest:
#   bash launch/test.sh -k retrieval          bash launch/test.sh -m slow
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
if [ $# -eq 0 ]; then
  "$PYTHON" -m pip check
  "$PYTHON" -m ruff check .
  "$PYTHON" -m ruff format --check .
  set -- -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=25
fi
exec "$PYTHON" -m pytest "$@"
