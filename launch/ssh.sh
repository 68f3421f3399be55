#!/usr/bin/env bash
# Trains on a list of hosts that this one reaches by ssh, a process each.
#
#   bash launch/ssh.sh HOST,HOST,... [options] --config CONFIG --workdir DIR ...
#
#   --port N             of the first host, where the processes meet (default 8476)
#   --address HOST       of the first host for the others (default: as it is listed)
#   --dir DIR            the repository on the hosts (default: this one's path)
#   --python PYTHON      with the packages, on the hosts (default: python)
#   --logs DIR           here: one file a process (default: logs); there: its number
#   --env NAME=VALUE     for every process, any number of times
#   --latency_hiding     XLA's scheduler that hides collectives; off unless asked
#   --dry_run            print what would run
#
# What is left goes to `python -m launch.train`; the workdir is one that all hosts reach.
# SIGTERM or Ctrl-C here stops the processes there, which save first. The exit code is the
# worst of theirs; after 75 (preempted) the same command goes on where the run was.
source "$(dirname "${BASH_SOURCE[0]}")/nodes.sh"
port=8476 address="" list=""
while [ $# -gt 0 ]; do
  common_option "$@"
  if [ "$took" -gt 0 ]; then shift "$took"; continue; fi
  case $1 in
    --port | --address)
      [ -n "${2:-}" ] || fail "$1 needs a value; see --help."
      if [ "$1" = --port ]; then port=$2; else address=$2; fi
      shift 2
      ;;
    *)
      if [ -z "$list" ] && [[ $1 != -* ]]; then list=$1; else arguments+=("$1"); fi
      shift
      ;;
  esac
done
[ -n "$list" ] || fail "give the hosts first, as a,b,c; see --help."
[[ $port =~ ^[0-9]+$ ]] || fail "--port $port is not a number."
check_arguments
require_command ssh "install an ssh client"
IFS=, read -r -a hosts <<<"$list"
for host in "${hosts[@]}"; do
  [[ $host =~ ^[A-Za-z0-9_.@-]+$ && $host != -* ]] || fail "$host is no host name."
done
address=${address:-${hosts[0]##*@}}

command_of() {  # of process $1
  local meet=("COORDINATOR_ADDRESS=$address:$port" "NUM_PROCESSES=${#hosts[@]}")
  # The shell's number stays that of the process it becomes.
  echo "cd $(quoted "$dir") && mkdir -p $(quoted "$logs") &&" \
    "echo \$\$ > $(quoted "$logs/process-$1.pid") &&" \
    "exec $(training "${meet[@]}" "PROCESS_ID=$1")"
}

if [ -n "$dry_run" ]; then
  for i in "${!hosts[@]}"; do quoted ssh -o BatchMode=yes "${hosts[i]}" "$(command_of "$i")"; done
  exit 0
fi
mkdir -p "$logs"
stop() {
  echo "stopping ${#hosts[@]} processes" >&2
  for i in "${!hosts[@]}"; do
    ssh -o BatchMode=yes "${hosts[i]}" \
      "cd $(quoted "$dir") && kill -TERM \$(cat $(quoted "$logs/process-$i.pid"))" &
  done
}
trap stop TERM INT
started=()
for i in "${!hosts[@]}"; do
  ssh -o BatchMode=yes "${hosts[i]}" "$(command_of "$i")" >>"$logs/process-$i.log" 2>&1 </dev/null &
  started+=($!)
done
echo "${#hosts[@]} processes; logs in $logs/process-*.log" >&2
codes=()
for pid in "${started[@]}"; do
  wait "$pid"
  code=$?
  # A trapped signal ends `wait`, not the process.
  while kill -0 "$pid" 2>/dev/null; do wait "$pid"; code=$?; done
  codes+=("$code")
done
for i in "${!hosts[@]}"; do
  [ "${codes[i]}" -eq 0 ] || echo "${hosts[i]}: exit code ${codes[i]}, $logs/process-$i.log" >&2
done
exit "$(worst "${codes[@]}")"
