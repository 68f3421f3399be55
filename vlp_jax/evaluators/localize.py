"""Where the steps of a task are in its videos: CrossTask's recall (arXiv 1903.08225).

Agrees with the code of DmZhukov/CrossTask. Zero-shot with a joint embedding, as in the
HowTo100M and MIL-NCE papers (`Evaluator`): O_tk = <v_t, text(step_k)> for every second
t, cost -log softmax_k(O), the cheapest alignment with one second a step, in order. The
authors of MIL-NCE released no code of this evaluation: the protocol is ours where
papers leave it open. A model that gives O itself goes through `Logits`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


def align(
  cost: np.ndarray,
  *,
  exactly_one: bool = True,
  background: float = 0.0,
  tight: str = "exact",
) -> np.ndarray:
  """The cheapest order-preserving assignment of T seconds to K steps.

  Each step comes once (one second, or without exactly_one a run of seconds), in order,
  with background before, between and behind. Among equals a state is kept rather than
  entered, and the end is a step rather than background, as in the published code.

  Args:
    cost: [T, K]; infinite where a second cannot be that step.
    background: cost of a second that is no step.
    tight: where T = K, "exact" finds the one way that there is, as the paper's text has
      it; "published" assigns nothing if the last step costs more than background, since
      the code compares with a state that cannot be reached.
  Returns: [T, K] bool. Nothing is assigned without a way of finite cost (T < K, or
    infinite costs), or if a cost is NaN.
  """
  if tight not in ("exact", "published"):
    raise ValueError(f"tight is {tight!r}; give 'exact' or 'published'.")
  num, k = cost.shape
  states = np.arange(2 * k + 1)  # odd ones are steps, even ones background
  odd, step_of = states % 2 == 1, np.minimum(states // 2, k - 1)
  total = np.where(states == 0, 0.0, np.inf)
  back, found = np.zeros((num, 2 * k + 1), int), np.zeros((num, k), bool)
  lost = tight == "published" and num == k and cost[-1, -1] > background
  if num < k or lost or np.isnan(cost).any():
    return found
  for t in range(num):
    ways = np.full((3, 2 * k + 1), np.inf)
    ways[0] = np.where(odd & exactly_one, np.inf, total)
    ways[1, 1:] = total[:-1]
    ways[2, 2:] = np.where(odd[2:], total[:-2], np.inf)  # from one step to the next
    back[t], best = ways.argmin(axis=0), ways.min(axis=0)
    here = np.where(odd, cost[t, step_of], background)
    no = (best == np.inf) | (here == np.inf)
    with np.errstate(invalid="ignore"):  # inf - inf
      total = np.where(no, np.inf, best + here)
  state = 2 * k if total[2 * k] < total[2 * k - 1] else 2 * k - 1
  if not np.isfinite(total[state]):
    return found
  for t in reversed(range(num)):
    if odd[state]:
      found[t, state // 2] = True
    state -= back[t, state]
  return found


def uniform(num: int, k: int) -> np.ndarray:
  """[num, k] bool: step i at second round((i + 1/2) * num / k), the baseline."""
  found = np.zeros((num, k), bool)
  at = np.round((np.arange(k) + 0.5) * num / k).astype(int)
  found[np.minimum(at, num - 1), np.arange(k)] = True
  return found


def seconds(rows: Iterable[tuple[float, float, float]], num: int, k: int) -> np.ndarray:
  """[num, k] bool, the seconds floor(start)..ceil(end)-1 of rows (step, start, end).

  Steps count from 1, as in the annotation files.
  """
  found = np.zeros((num, k), bool)
  for step, start, end in rows:
    found[int(np.floor(start)) : int(np.ceil(end)), int(step) - 1] = True
  return found


def hits(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
  """(steps found in one of their seconds, steps that the video has); [T, K] both."""
  return int((predicted & truth).any(axis=0).sum()), int(truth.any(axis=0).sum())


def recall(pairs: Mapping[object, Iterable[tuple[np.ndarray, np.ndarray]]]) -> dict:
  """Task -> steps found over steps present in all its (predicted, truth) [T, K].

  Videos without an annotated step, and tasks without such videos, do not count.
  """
  out = {}
  for task, videos in pairs.items():
    counts = np.array([hits(p, t) for p, t in videos]).reshape(-1, 2).sum(axis=0)
    if counts[1]:
      out[task] = float(counts[0] / counts[1])
  return out


def recalls(
  videos: Iterable[tuple[int, np.ndarray, np.ndarray]],
) -> Iterator[tuple[str, Result]]:
  """`step_recall`, averaged over tasks; chance is that of evenly spaced steps.

  Args:
    videos: (task, logits [T, K] of its K steps, truth [T, K or more] bool) of each
      video with an annotated step.
  Yields: step_recall, and `even_recall`, of the evenly spaced steps.
  Raises: ValueError without a video, or if a step is annotated that the task lacks.
  """
  pairs, even, short, num = {}, {}, 0, 0
  for task, logits, truth in videos:
    length, k = logits.shape
    if truth[:, k:].any():
      raise ValueError(f"task {task} has {k} steps, a video of it more.")
    truth = truth[:, :k]
    found = align(-_log_softmax(logits.astype(np.float64)))
    short += length < k
    num += hits(found, truth)[1]
    pairs.setdefault(task, []).append((found, truth))
    even.setdefault(task, []).append((uniform(length, k), truth))
  if not pairs:
    raise ValueError("no video has an annotated step: is the evaluation set empty?")
  of_task, chance = recall(pairs), recall(even)
  told = f"mean of {len(of_task)} tasks, {num} annotated steps, one second a step"
  told += f", {short} videos shorter than their steps count as missed" if short else ""
  mean = Result.of(list(of_task.values()), protocol=f"{told}; chance: evenly spaced")
  yield "step_recall", mean._replace(chance=float(np.mean(list(chance.values()))))
  yield "even_recall", Result.of(list(chance.values()), protocol="evenly spaced")


class Evaluator:
  """Step recall of a joint embedding, see `recalls`.

  Args:
    apply: of the model; see `collect.Forward`.
    videos: re-iterable. `label_task` [B]. Either `output` [B, T, D] with clips_mask
      [B, T], a second each, and label_steps [B, T, K] (1 where step k is annotated, K
      of the longest task); or `output` [B, D] of windows, each at `label_second` [B] of
      the video `group_id`, with label_steps [B, K]: windows of one second are averaged.
    steps: re-iterable of step names: text_ids, text_mask, `label_task` and
      `label_step` [B], from 0 in their order.
    methods, outputs: what to call, and which embedding to take, for videos and steps.
    scale: of the products, before the softmax over the steps.
  """

  def __init__(
    self,
    apply: Callable,
    videos: Iterable[Mapping],
    steps: Iterable[Mapping],
    *,
    methods: tuple[str | None, str | None] = ("encode_clips", "encode_text"),
    outputs: tuple[str, str] = ("clips_embed", "text_embed"),
    scale: float = 1.0,
  ):
    self.videos, self.steps, self.outputs, self.scale = videos, steps, outputs, scale
    self.embed_videos = collect.Forward(
      apply,
      (outputs[0], "label_task", "label_steps"),
      method=methods[0],
      optional=("clips_mask", "label_second", "group_id"),
    )
    self.embed_steps = collect.Forward(
      apply, (outputs[1], "label_task", "label_step"), method=methods[1]
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """See `recalls`."""
    names = self._names(self.embed_steps(variables, self.steps))
    yield from recalls(self._scored(self.embed_videos(variables, self.videos), names))

  def _scored(self, out, names):
    """(task, logits [T, K], truth [T, K of the longest task]) of annotated videos."""
    for task, embed, truth in _videos(out, self.outputs[0]):
      if not truth.any():
        continue
      if task not in names:
        raise ValueError(f"a video is of task {task}; steps are of {sorted(names)}.")
      with np.errstate(invalid="ignore", over="ignore"):
        logits = self.scale * embed.astype(np.float64) @ names[task].T.astype(float)
      yield task, logits, truth

  def _names(self, out):
    """Task -> [K, D] in the order of its steps."""
    found = {}
    for task in np.unique(out["label_task"]):
      rows = np.flatnonzero(out["label_task"] == task)
      order = np.argsort(out["label_step"][rows])
      if (out["label_step"][rows][order] != np.arange(len(rows))).any():
        raise ValueError(f"label_step of task {task} is not 0 to {len(rows) - 1}.")
      found[int(task)] = out[self.outputs[1]][rows][order]
    return found


class Logits:
  """Step recall of a model that scores a video's seconds for the steps of its task.

  Args:
    apply: of the model; see `collect.Forward`.
    videos: re-iterable. `label_task` [B], label_steps [B, T, K] (1 where step k is
      annotated), clips_mask [B, T], a second each.
    output, steps: names of the scores [B, T, K] before the softmax, and of which steps
      the task has [B, K], the first ones; the others take no part in the softmax.
    method: what to call; None for `__call__`.
  """

  def __init__(
    self,
    apply: Callable,
    videos: Iterable[Mapping],
    *,
    output: str = "step_logits",
    steps: str = "step_mask",
    method: str | None = None,
  ):
    self.videos, self.output, self.steps = videos, output, steps
    wanted = (output, steps, "label_task", "label_steps", "clips_mask")
    self.score = collect.Forward(apply, wanted, method=method)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """See `recalls`."""
    yield from recalls(self._scored(self.score(variables, self.videos)))

  def _scored(self, out):
    truth, mask = out["label_steps"] > 0, out["clips_mask"]
    for i in np.flatnonzero(truth.any(axis=(1, 2))):
      own = out[self.output][i, mask[i], : out[self.steps][i].sum()]
      yield int(out["label_task"][i]), own, truth[i, mask[i]]


def _log_softmax(x):
  with np.errstate(invalid="ignore", divide="ignore"):  # infinite scores
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _videos(out, output):
  """(task, [T, D], [T, K] bool) of each video."""
  embed, truth = out[output], out["label_steps"] > 0
  if embed.ndim == 3:
    mask = out.get("clips_mask", np.ones(embed.shape[:2], bool))
    for task, x, y, where in zip(out["label_task"], embed, truth, mask, strict=True):
      yield int(task), x[where], y[where]
    return
  if "label_second" not in out or "group_id" not in out:
    raise ValueError(
      f"{output} has shape {embed.shape}; windows need label_second and group_id."
    )
  for video in collect.group_mean(np.zeros(len(embed)), out["group_id"]).ids:
    rows = np.flatnonzero(out["group_id"] == video)
    rows = rows[np.argsort(out["label_second"][rows], kind="stable")]
    windows = collect.group_mean(embed[rows], out["label_second"][rows])
    yield (
      int(out["label_task"][rows[0]]),
      windows.values,
      truth[rows][windows.first],
    )
