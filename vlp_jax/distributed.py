"""Starting several processes: TPU pods, Slurm, or plain ssh with three variables.

JAX finds its peers itself on TPU VMs and under Slurm and Open MPI; on TPU VMs outside
of Kubernetes VLP_JAX_DISTRIBUTED=auto asks it to, as launch/tpu_vm.sh does. Elsewhere
set COORDINATOR_ADDRESS (host:port of process 0), NUM_PROCESSES and PROCESS_ID.
"""

import os

import jax

from vlp_jax.errors import UserError

VARIABLES = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")


def start() -> None:
  """Joins the other processes, if there are any. Call once, before any computation.

  Raises: UserError when only some of the variables are set.
  """
  if jax.distributed.is_initialized():
    return
  given = {k: os.environ.get(k) for k in VARIABLES}
  if any(given.values()):
    absent = [k for k, v in given.items() if not v]
    if absent:
      raise UserError(f"set {', '.join(absent)} as well: {VARIABLES} go together.")
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
      jax.config.update("jax_cpu_collectives_implementation", "gloo")
    address, count, index = given.values()
    jax.distributed.initialize(address, int(count), int(index))
    return
  asked = os.environ.get("VLP_JAX_DISTRIBUTED", "")
  if asked not in ("", "auto"):
    raise UserError(f"VLP_JAX_DISTRIBUTED is {asked!r}; it is 'auto' or not set.")
  pod = len(os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
  if asked or pod or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
    jax.distributed.initialize()


def first() -> bool:
  """Whether this process writes what only one may write."""
  return jax.process_index() == 0
