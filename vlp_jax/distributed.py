"""Starting several processes: TPU pods, Slurm, or plain ssh with three variables.

JAX finds its peers itself on TPU VMs and under Slurm and Open MPI; on TPU VMs outside
of Kubernetes VLP_JAX_DISTRIBUTED=auto asks it to, as launch/tpu_vm.sh does. Elsewhere
set COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and PROCESS_ID.
"""

import os
import socket
import time

import jax

from vlp_jax.errors import UserError

VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
WAIT_S = 300.0  # for process 0, and for all to come: as long as JAX waits


def start() -> None:
  """Joins the other processes, if there are any. Call once, before any computation.

  JAX aborts the process where peers fail to come, and crashes where the port of process
  0 is taken; what can be seen before is told instead. Process 0 cannot see who is
  missing: it is aborted after WAIT_S.

  Raises: UserError when only some of the variables are set or one has no valid value,
    when process 0 cannot be reached or its port is taken, and where JAX is asked to
    find its peers and cannot.
  """
  if jax.distributed.is_initialized():
    return
  given = {k: os.environ.get(k) for k in VARIABLES}
  if any(given.values()):
    absent = [k for k, v in given.items() if not v]
    if absent:
      raise UserError(f"set {', '.join(absent)} as well: {VARIABLES} go together.")
    address, count, index = given.values()
    host, port = _host_and_port(address)
    count = _number("NUM_PROCESSES", count, low=1)
    index = _number("PROCESS_ID", index, low=0, high=count - 1)
    _check_port(host, port) if index == 0 else _wait_for(host, port, WAIT_S)
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
      jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
      address, count, index, initialization_timeout=int(WAIT_S)
    )
    return
  asked = os.environ.get("VLP_JAX_DISTRIBUTED", "")
  if asked not in ("", "auto"):
    raise UserError(f"VLP_JAX_DISTRIBUTED is {asked!r}; it is 'auto' or not set.")
  pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
  tasks = _number("SLURM_NTASKS", os.environ.get("SLURM_NTASKS") or "1", low=1)
  if asked or pod or tasks > 1:
    why = "VLP_JAX_DISTRIBUTED=auto" if asked else "TPU_WORKER_HOSTNAMES"
    _find_peers(why if asked or pod else f"SLURM_NTASKS={tasks}")


def _find_peers(why: str) -> None:
  try:
    jax.distributed.initialize()
  except (ValueError, KeyError, OSError, jax.errors.JaxRuntimeError) as error:
    told = " ".join(str(error).split())
    raise UserError(
      f"{why} asks JAX to find the other processes, and it cannot ({told}). Unset it "
      "to run one process; else start all by srun or on the workers of a TPU slice, "
      f"or set {', '.join(VARIABLES)}."
    ) from error


def _number(name: str, text: str, *, low: int, high: int | None = None) -> int:
  wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
  value = int(text) if text.strip().isdecimal() else low - 1
  if value < low or (high is not None and value > high):
    raise UserError(f"{name} is {text!r}; it must be a whole number {wanted}.")
  return value


def _host_and_port(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(
      f"COORDINATOR_ADDRESS is {address!r}; it must be host:port of process 0, such as "
      f"{host or address.strip(':') or 'localhost'}:8476."
    )
  return host.strip("[]"), int(port)


def _check_port(host: str, port: int) -> None:
  if "JAX_COORDINATOR_BIND_ADDRESS" in os.environ:  # it is another one
    return
  try:
    socket.create_server(("", port)).close()
  except OSError as error:
    raise UserError(
      f"COORDINATOR_ADDRESS: port {port} cannot be used here ({error.strerror}): an "
      f"earlier run may still hold it. End that, or give another port of {host}."
    ) from error


def _wait_for(host: str, port: int, limit_s: float) -> None:
  end = time.monotonic() + limit_s
  while True:
    try:
      socket.create_connection((host, port), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > end:
        raise UserError(
          f"COORDINATOR_ADDRESS: nothing answers at {host}:{port} for {limit_s:g} s "
          f"({error}). Process 0 must run there, with the same variables."
        ) from error
    time.sleep(min(1.0, limit_s))


def first() -> bool:
  """Whether this process writes what only one may write."""
  return jax.process_index() == 0
