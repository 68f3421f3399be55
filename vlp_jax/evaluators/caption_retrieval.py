"""The baseline of captioning: the caption of the nearest training clip.

    caption(x) = that of argmax_i cos(f(x), f(x_i)) over the rows i of the training set

A captioner that writes no better than this has memorised; scores are those of
`evaluators.caption`, on the same items.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp

from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption, collect
from vlp_jax.metrics import Result, wide


def feature(out: Mapping, batch: Mapping, name: str) -> jax.Array:
  """[B, D] of unit norm (0 stays 0): output or batch key `name`, float32.

  [B, T, D] is averaged over the steps that `<stem>_mask` [B, T] calls real, where there
  is one.
  """
  have = dict(batch) | dict(out)
  if name not in have:
    raise UserError(f"no {name!r} among {sorted(have)} to compare clips by.")
  x = wide(have[name])
  if x.ndim == 3:
    stem = name.rpartition("_")[0] or name
    where = have.get(f"{stem}_mask", jnp.ones(x.shape[:2], bool))
    x = jnp.where(where[..., None], x, 0).sum(axis=1)
  norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.where(norm == 0, 1.0, norm)


class Evaluator:
  """Scores of copied captions.

  Args:
    apply: of the model.
    train: re-iterable of training rows with text_ids, text_mask: each row's caption is
      one that may be copied; of equals the first is.
    test: re-iterable of the rows to caption, as `caption.Evaluator` takes them.
    feature: what clips are compared by, an output of `method` or a batch key, [B, D] or
      [B, T, D]: "video_features" of the trained model, or "clips_features" as given.
    others: see `caption.Evaluator`.
  """

  def __init__(
    self,
    apply: Callable,
    train: Iterable[Mapping],
    test: Iterable[Mapping],
    *,
    tokeniser,
    feature: str = "video_features",
    method: str = "encode_video",
    references: str | Mapping = "",
    stream: str = "text",
    item: str = "",
    metrics: tuple[str, ...] = caption.METRICS,
    tokenizer: str = "ptb",
    join: bool = False,
    predictions: str = "",
  ):
    self.train = train
    features = _features(apply, feature, method)
    names = ("feature", "text_ids", "text_mask")
    self.memory = collect.Forward(features, names)

    def copy(variables, batch, *, rng=None, train=False, method=None):
      out, mutable = features(variables["model"], batch)
      known = variables["memory"]
      best = (out["feature"] @ known["feature"].T).argmax(axis=-1)
      out = {k: known[f"text_{k}"][best] for k in ("ids", "mask")}
      return {f"caption_{k}": x for k, x in out.items()}, mutable

    self.scorer = caption.Evaluator(
      copy,
      test,
      tokeniser=tokeniser,
      references=references,
      stream=stream,
      item=item,
      metrics=metrics,
      tokenizer=tokenizer,
      join=join,
      predictions=predictions,
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """Every metric of `caption.Evaluator`."""
    memory = self.memory(variables, self.train)
    yield from self.scorer.run({"model": variables, "memory": memory})


def _features(apply, name, own):
  """`apply` with the one output `feature`, by the method `own`."""

  def run(variables, batch, *, rng=None, train=False, method=None):
    out, mutable = apply(variables, batch, train=False, method=own)
    return {"feature": feature(out, batch, name)}, mutable

  return run
