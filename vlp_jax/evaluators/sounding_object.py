"""Where is the thing that sounds? The peak of a map against the true box.

AVOL-Net (arXiv 1712.06651): the share of pictures whose peak lies in the annotated
object is 81.7 %, that of the picture's centre 57.2 %.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from vlp_jax.evaluators import pairs
from vlp_jax.metrics import Result


class Evaluator:
  """Peaks inside boxes, with the right sound and with another clip's.

  Reads `label_box` [B, T, 4], x1 y1 x2 y2 of the sounding object in 0..1 of each frame,
  negative where it is unknown; that of the middle frame, which the model sees, counts.
  Rows whose box has no area (the object is outside of the crop) do not.

  Args:
    apply: of a model whose method `score` gives `output`, a map [P, h, w].
    batches: re-iterable; rows with picture, sound and box.
    outputs: of picture and sound, what `score` reads.
    num_examples: rows, evenly spaced, that go to `examples`.
    chunk: pairs at a time; seed: of the other clips.

  After `run`, `examples` is a list of dicts: `example_id`, `frame` (which of T), `map`
  [h, w], `box` [4], `peak` (x, y in 0..1), `right` (bool).
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "location_logits",
    outputs: tuple[str, str] = ("video_map", "audio_embed"),
    num_examples: int = 8,
    chunk: int = 64,
    seed: int = 0,
  ):
    self.batches, self.output, self.seed = batches, output, seed
    self.num_examples, self.examples = num_examples, []

    def boxed(variables, batch, *, train=False, method=None):
      out, mutable = apply(variables, batch, train=train, method=method)
      at = batch["video_mask"].sum(1) // 2
      box = jnp.take_along_axis(batch["label_box"], at[:, None, None], axis=1)[:, 0]
      return dict(out) | {"box": box, "frame": at}, mutable

    keys = ("box", "frame", "example_id")
    self.pairs = pairs.Pairs(
      boxed_or_score(apply, boxed), outputs, keys=keys, chunk=chunk
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`peak_in_box`; `other_sound_in_box`, the same with the sound of another clip;
    `centre_in_box`, what the middle of the picture gives.

    Chance is the share of the map's places that lie in the box. Of several peaks the
    first counts; a map that is the same everywhere, or not finite, is a miss.
    """
    out = self.pairs.encode(variables, self.batches)
    box = out["box"].astype(np.float64)
    known = (box >= 0).all(1) & (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    if not known.any():
      raise ValueError("no row has a box (label_box) with the object in the picture.")
    partner, found = pairs.others(out["group_id"], self.seed)
    own = np.arange(len(partner))
    maps, swapped = (
      self.pairs.score(variables, out, at, (self.output,))[self.output].astype(
        np.float64
      )
      for at in (own, partner)
    )
    x, y = places(maps.shape[1:])
    inside = in_box(x, y, box[:, None, None])  # [n, h, w]
    at, sharp = peaks(maps)
    hit = np.take_along_axis(inside.reshape(len(box), -1), at[:, None], 1)[:, 0] & sharp
    chance = float(inside[known].mean())
    told = f"map of {maps.shape[1]} x {maps.shape[2]}, box of the middle frame"
    yield "peak_in_box", Result.of(hit[known], chance=chance, protocol=told)
    other, some = peaks(swapped)
    wrong = np.take_along_axis(inside.reshape(len(box), -1), other[:, None], 1)[:, 0]
    kept = known & found
    if kept.any():
      told = "control: the sound of another clip"
      result = Result.of((wrong & some)[kept], chance=chance, protocol=told)
      yield "other_sound_in_box", result
    half = np.float64(0.5)
    told = "baseline: the middle of every picture"
    hits = in_box(half, half, box[known])
    yield "centre_in_box", Result.of(hits, chance=chance, protocol=told)
    rows = np.flatnonzero(known)
    shown = np.linspace(0, len(rows) - 1, min(self.num_examples, len(rows)))
    self.examples = [
      {
        "example_id": int(out["example_id"][i]),
        "frame": int(out["frame"][i]),
        "map": maps[i],
        "box": box[i],
        "peak": (float(x.ravel()[at[i]]), float(y.ravel()[at[i]])),
        "right": bool(hit[i]),
      }
      for i in rows[np.unique(shown.astype(int))]
    ]


def boxed_or_score(apply, boxed):
  """`boxed` for whole batches; `apply` itself for a method, which sees no box."""

  def call(variables, batch, *, train=False, method=None):
    fn = boxed if method is None else apply
    return fn(variables, batch, train=train, method=method)

  return call


def places(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """x and y [h, w] in 0..1 of the middles of a map's places."""
  h, w = shape
  y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
  return x, y


def in_box(x, y, box: np.ndarray) -> np.ndarray:
  """Whether points lie in boxes [..., 4], edges included."""
  x1, y1, x2, y2 = np.moveaxis(box, -1, 0)
  return (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)


def peaks(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Place of the maximum [n] of maps [n, h, w], and whether there is one [n] bool."""
  flat = maps.reshape(len(maps), -1)
  finite = np.isfinite(flat).all(1)
  flat = np.where(finite[:, None], flat, 0.0)
  return flat.argmax(1), finite & (flat.max(1) > flat.min(1))
