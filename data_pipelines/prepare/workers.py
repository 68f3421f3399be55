"""Worker processes that make shards: counted, and killed ones reported with the cause.

Workers are spawned, import no TensorFlow, leave the keyboard to the parent, and end
when the parent dies.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import process

from vlp_jax import errors

_DONE = None  # of a worker: examples done by all, shared with the parent


def _begin(done) -> None:
  global _DONE
  _DONE = done
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides

  def follow():
    multiprocessing.parent_process().join()
    os._exit(1)  # an orphan would wait for work for ever

  threading.Thread(target=follow, daemon=True).start()


def _count() -> None:
  with _DONE.get_lock():
    _DONE.value += 1


def _work(job, task):
  return job(task, count=_count)


def run(
  job: Callable,
  tasks: Iterable,
  processes: int,
  update: Callable[[int], None],
  check: Callable[[object], None],
) -> None:
  """`check(job(task, count=...))` for all tasks, in any order, in several processes.

  Args:
    job: picklable; calls `count()` once an example.
    update: told how many examples are done, a few times a second.
    check: given each result; what it raises ends the run.
  Raises: Preempted if a worker was killed; whatever a job or `check` raises.
  """
  context = multiprocessing.get_context("spawn")
  done, tasks = context.Value("q", 0), list(tasks)
  pool = concurrent.futures.ProcessPoolExecutor(
    min(processes, len(tasks)), context, _begin, (done,)
  )
  known = {}
  try:
    waiting = {pool.submit(_work, job, task) for task in tasks}
    while waiting:
      known |= {p.pid: p for p in multiprocessing.active_children()}
      finished, waiting = concurrent.futures.wait(
        waiting, 0.2, concurrent.futures.FIRST_COMPLETED
      )
      update(done.value)
      for future in finished:
        check(future.result())
  except process.BrokenProcessPool:
    for p in known.values():
      p.join(5)
    ended = [f"process {i} ended with {p.exitcode}" for i, p in known.items()]
    raise errors.Preempted(
      f"a worker was killed ({', '.join(ended)}; -9 is often a lack of memory). "
      "Finished shards are kept: run the same command again, maybe with fewer "
      "--processes."
    ) from None
  finally:
    for p in known.values():
      p.terminate()  # idle, or of a run that has failed
    pool.shutdown(wait=True, cancel_futures=True)
