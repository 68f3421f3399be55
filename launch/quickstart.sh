#!/usr/bin/env bash
# From a fresh machine to a trained and evaluated model in one command: environment,
# generated narrated clips as mp4 files, shards, training, evaluation, report.
#   bash launch/quickstart.sh                              about six minutes on two cores
#   bash launch/quickstart.sh --config configs/quickstart.py:long        half an hour
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$PYTHON" -m launch.quickstart "$@"
