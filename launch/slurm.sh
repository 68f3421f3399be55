#!/usr/bin/env bash
# Trains on all nodes of a Slurm job, a process a GPU; submits itself.
#
#   bash launch/slurm.sh --nodes 4 --gpus 8 [options] --config CONFIG --workdir DIR ...
#
#   --nodes N --gpus N   nodes, and GPUs of each (default 1 and 8; --gpus 0: one process
#                        a node and no GPU)
#   --cpus N             cores of each process (default 8)
#   --time T --partition P --account A --sbatch "WORDS"   for sbatch, as they are
#   --dir DIR            the repository on the nodes (default: this one)
#   --python PYTHON      with the packages, on the nodes (default: python)
#   --logs DIR           one file a process (default: logs)
#   --env NAME=VALUE     for every process, any number of times
#   --latency_hiding     XLA's scheduler that hides collectives; off unless asked
#   --dry_run            print the job script and submit nothing
#
# What is left goes to `python -m launch.train`. The job is told three minutes before its
# time is over; a run that leaves with 75, told so or preempted, is queued again and goes
# on where it was. The job's exit code is the worst of its processes.
source "$(dirname "${BASH_SOURCE[0]}")/nodes.sh"
nodes=1 gpus=8 cpus=8 batch=()
while [ $# -gt 0 ]; do
  common_option "$@"
  if [ "$took" -gt 0 ]; then shift "$took"; continue; fi
  case $1 in
    --nodes) nodes=${2:-} ;;
    --gpus) gpus=${2:-} ;;
    --cpus) cpus=${2:-} ;;
    --time | --partition | --account) batch+=("$1=${2:-}") ;;
    --sbatch) read -r -a more <<<"${2:-}"; batch+=("${more[@]}") ;;
    *) arguments+=("$1"); shift; continue ;;
  esac
  [ -n "${2:-}" ] || fail "$1 needs a value; see --help."
  shift 2
done
for number in "$nodes" "$gpus" "$cpus"; do
  [[ $number =~ ^[0-9]+$ ]] || fail "$number: --nodes, --gpus and --cpus are numbers."
done
[ "$nodes" -gt 0 ] && [ "$cpus" -gt 0 ] || fail "--nodes and --cpus are at least 1."
check_arguments
require_command sbatch "run this where jobs are submitted"

# A process sees one GPU: JAX takes its number from Slurm, so all of a node stay visible.
tasks=$((gpus > 0 ? gpus : 1))
[ "$gpus" -eq 0 ] || batch+=("--gpus-per-node=$gpus")
job=$(
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=vlp_jax --nodes=$nodes --ntasks-per-node=$tasks --cpus-per-task=$cpus
#SBATCH --requeue --open-mode=append --signal=TERM@180
cd $(quoted "$dir") || exit 2
mkdir -p $(quoted "$logs")
trap : TERM  # the steps get it too; this shell waits for them
told=$(quoted "$logs")/srun-\$SLURM_JOB_ID.log
srun --wait=300 --open-mode=append --output=$(quoted "$logs")/process-%t.log \\
  $(training) 2>"\$told"
code=\$?
cat "\$told" >&2
# srun's code is the highest: 75 of those that are stopped would hide the 2 of the one
# that failed, and the job would be queued again for ever.
failed=\$(sed -n 's/.*Exited with exit code \([0-9]*\).*/\1/p' "\$told" | grep -vx 75)
[ -z "\$failed" ] || [ "\$code" -ne 75 ] || code=\${failed%%[!0-9]*}
if [ "\$code" -eq 75 ]; then
  echo "preempted: queued again"
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
END
)
if [ -n "$dry_run" ]; then
  echo "sbatch ${batch[*]-} <<'END'"
  echo "$job"
  echo "END"
  exit 0
fi
mkdir -p "$logs"
sbatch --output="$logs/job-%j.log" ${batch[@]+"${batch[@]}"} <<<"$job"
