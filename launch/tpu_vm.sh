#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU VM slice.
#
#   bash launch/tpu_vm.sh NAME --zone ZONE [options] --config CONFIG --workdir gs://... ...
#
#   --zone ZONE --project PROJECT   of the slice, as gcloud takes them
#   --setup              first make the environment on all workers (requirements-tpu.txt)
#   --dir DIR            the repository on the workers (default: vlp_jax in the home)
#   --python PYTHON      with the packages, on the workers (default: .venv/bin/python)
#   --logs DIR           one file a worker, there (default: logs)
#   --env NAME=VALUE     for every worker, any number of times
#   --dry_run            print what would run
#
# What is left goes to `python -m launch.train`; the workdir is one that all workers
# reach. The exit code is the worst of the workers'; after 75 (preempted, or the
# connection was lost) the same command goes on where the run was, on a new slice as
# well. It is 2 where the workers were not reached at all.
source "$(dirname "${BASH_SOURCE[0]}")/nodes.sh"
dir=vlp_jax python=.venv/bin/python name="" setup="" where=()
while [ $# -gt 0 ]; do
  [ "$1" != --latency_hiding ] || fail "--latency_hiding is for GPUs; see --help."
  common_option "$@"
  if [ "$took" -gt 0 ]; then shift "$took"; continue; fi
  case $1 in
    --zone | --project)
      [ -n "${2:-}" ] || fail "$1 needs a value; see --help."
      where+=("$1=$2")
      shift 2
      ;;
    --setup) setup=1; shift ;;
    *)
      if [ -z "$name" ] && [[ $1 != -* ]]; then name=$1; else arguments+=("$1"); fi
      shift
      ;;
  esac
done
[ -n "$name" ] || fail "give the name of the TPU VM first; see --help."
[[ "${where[*]-}" == *--zone=* ]] || fail "--zone is missing; see --help."
check_arguments
require_command gcloud "install the Google Cloud CLI"

# Under the name of each worker its exit code comes back in the last line: gcloud's own
# does not tell an error from a preemption.
run="$(training VLP_JAX_DISTRIBUTED=auto) >> $(quoted "$logs")/\$(hostname).log 2>&1"
remote="cd $(quoted "$dir") && mkdir -p $(quoted "$logs") || exit 2; "
if [ -n "$setup" ]; then
  remote+="REQUIREMENTS=requirements-tpu.txt bash -c 'source launch/environment.sh' || exit 2; "
fi
remote+="$run; echo \"exit code \$? of \$(hostname)\""
call=(gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command "$remote")
if [ -n "$dry_run" ]; then
  quoted "${call[@]}"
  exit 0
fi
told=$("${call[@]}" 2>&1 | tee /dev/stderr)
reached=$?
codes=$(sed -n 's/.*exit code \([0-9]*\) of .*/\1/p' <<<"$told")
# shellcheck disable=SC2086  # one word each
code=$(worst $codes)
if [ "$reached" -ne 0 ] && [ "$code" -eq 0 ]; then
  # A slice that is taken away ends the connections before a worker can tell its code;
  # then ssh's is 255, which gcloud hands on or tells. All else comes again each time.
  refused="Permission denied|Host key verification failed|Could not resolve hostname"
  lost="return code \[255\]|Connection (closed|reset|to .* closed)|Broken pipe"
  if ! grep -qE "$refused" <<<"$told" &&
    { [ "$reached" -eq 255 ] || grep -qE "$lost" <<<"$told"; }; then
    exit 75
  fi
  fail "gcloud left with $reached before all workers told an exit code: what it says is" \
    "above; look at the name, --zone, --project and the login."
fi
exit "$code"
