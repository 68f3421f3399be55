# Sourced by the other scripts: makes .venv when there is none, then $PYTHON is its python.
# Needs nothing but a shell and Python 3.11 or 3.12. PYTHON_BIN chooses one, REQUIREMENTS
# another list of packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=.venv/bin/python
REQUIREMENTS=${REQUIREMENTS:-requirements.txt}

suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
  local name
  for name in ${PYTHON_BIN:-} python3.11 python3.12 python3 python; do
    if command -v "$name" >/dev/null && suitable "$name"; then
      echo "$name"
      return
    fi
  done
  echo "no Python 3.11 or 3.12 found; install one, or set PYTHON_BIN=/path/to/python" >&2
  return 2
}

# The list that was installed last is kept beside it: a changed list is installed again.
stamp=.venv/.installed
if ! [ -x "$PYTHON" ] || ! cmp -s "$REQUIREMENTS" "$stamp"; then
  base=$(find_python)
  echo "setting up .venv with $("$base" --version) from $REQUIREMENTS" >&2
  [ -x "$PYTHON" ] || "$base" -m venv .venv
  # Compiled here once: else every start of a process that may not write compiles all
  # modules of its own, ten seconds of TensorFlow alone.
  if command -v uv >/dev/null; then
    installer=(uv pip install --compile-bytecode --python "$PYTHON")
  elif "$PYTHON" -m pip install -q uv 2>/dev/null; then
    installer=("$PYTHON" -m uv pip install --compile-bytecode --python "$PYTHON")
  else
    installer=("$PYTHON" -m pip install)
  fi
  "${installer[@]}" -q -r "$REQUIREMENTS" || "$PYTHON" -m pip install -q -r "$REQUIREMENTS"
  cp "$REQUIREMENTS" "$stamp"
fi
# Large pages for the buffers that XLA takes and gives back every step: a small step on a
# CPU has 70 times fewer page faults and takes a third less processor time.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-3}
