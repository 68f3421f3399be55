# Sourced by slurm.sh, tpu_vm.sh and ssh.sh: options, checks and exit codes they share.
# What is left of the arguments is given to `python -m launch.train`, the same everywhere.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python dir=$PWD logs=logs dry_run="" variables=() arguments=()

usage() {  # the comment at the head of the script
  sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p;};}' "$0"
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# An option that all three know: sets `took` to how many words it is, 0 for another.
common_option() {
  took=2
  case $1 in
    --python) python=${2:-} ;;
    --dir) dir=${2:-} ;;
    --logs) logs=${2:-} ;;
    --env) variables+=("${2:-}") ;;
    --dry_run) took=1 dry_run=1 ;;
    --latency_hiding)
      took=1
      latency_hiding
      ;;
    --help | -h)
      usage
      exit 0
      ;;
    *) took=0 ;;
  esac
  [ "$took" -lt 2 ] || [ -n "${2:-}" ] || fail "$1 needs a value; see --help."
}

# Schedules collectives beside computation. Not on by itself: measure it on your chips.
latency_hiding() {
  variables+=("XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_gpu_enable_latency_hiding_scheduler=true")
}

# The arguments of launch.train, checked as far as a shell can.
check_arguments() {
  local config="" workdir="" before="" word
  for word in ${arguments[@]+"${arguments[@]}"}; do
    case $before in
      --config) config=$word ;;
      --workdir) workdir=$word ;;
    esac
    case $word in
      --config=*) config=${word#*=} ;;
      --workdir=*) workdir=${word#*=} ;;
    esac
    before=$word
  done
  [ -n "$config" ] || fail "--config is missing: give the arguments of launch.train; see --help."
  [ -n "$workdir" ] || fail "--workdir is missing: give the arguments of launch.train; see --help."
  [ -f "${config%%:*}" ] || fail "--config ${config%%:*}: no such file under $PWD."
  local pair
  for pair in ${variables[@]+"${variables[@]}"}; do
    [[ $pair =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "--env $pair is not NAME=VALUE."
  done
}

require_command() {
  [ -n "$dry_run" ] || command -v "$1" >/dev/null || fail "$1 is not on the PATH: $2."
}

quoted() {  # the words as one line that a shell reads back as they are
  local out
  out=$(printf '%q ' "$@")
  echo "${out% }"
}

# The training command with extra variables ($@), as one line.
training() {
  quoted env "$@" ${variables[@]+"${variables[@]}"} \
    "$python" -m launch.train "${arguments[@]}"
}

# The worst of exit codes: an error before 75 (preempted, start again) before 0.
worst() {
  local code out=0
  for code in "$@"; do
    if [ "$code" != 0 ] && { [ "$out" = 0 ] || [ "$out" = 75 ]; }; then out=$code; fi
  done
  echo "$out"
}
