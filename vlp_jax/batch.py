"""The batch contract: a flat dict of arrays, keys `<stream>_<field>`, leading axis B.

Masks are bool with True = real. A missing modality is a missing key; in a mixed batch
the row's mask is False and the row contributes exactly 0. Letters: B rows, L text
tokens, C captions or choices, R regions, T frames or clips, N clips of a row, H W
pixels, D width, S samples or segments of a packed row, M fused tokens, P positions of
a head. A packed row holds several examples: `<stream>_segments` number their tokens.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

TEXT = ("text", "query", "answer", "caption", "tag")  # [B, L]
TEXTS = ("subtitle", "choice", "narration")  # [B, C, L]
REGIONS = ("regions", "regions2")
IMAGES = ("image", "image2")
VIDEOS = ("video", "video_broad")
CLIPS = ("clips",)
AUDIO = ("audio", "audio_broad")
STREAMS = (*TEXT, *TEXTS, *REGIONS, *IMAGES, *VIDEOS, *CLIPS, *AUDIO)

_INT, _BOOL, _F32 = ("int32",), ("bool",), ("float32", "float64")
_FLOAT = ("float16", "bfloat16", "float32", "float64")

# field -> (axes after B, accepted dtypes); "..." stands for any further axes.
_TEXT_FIELDS = {
  "ids": ("L", _INT),
  "mask": ("L", _BOOL),
  "types": ("L", _INT),
  "word_ids": ("L", _INT),
  "positions": ("L", _INT),
  "segments": ("L", _INT),
  "language": ("", _INT),
  "delta": ("L D", _FLOAT),
}
_REGION_FIELDS = {
  "features": ("R D", _FLOAT),
  "boxes": ("R 7", _F32),
  "mask": ("R", _BOOL),
  "types": ("R", _INT),
  "objects": ("R", _INT),
  "attributes": ("R", _INT),
  "conf": ("R", _F32),
  "attribute_conf": ("R", _F32),
  "angles": ("R 2", _F32),
  "probs": ("R C", _FLOAT),
  "segments": ("R", _INT),
  "delta": ("R D", _FLOAT),
}
_VIDEO_FIELDS = {
  "frames": ("... H W 3", ("uint8", *_FLOAT)),
  "mask": ("... T", _BOOL),
  "times": ("... T", _F32),
}
_CLIP_FIELDS = {
  "features": ("T D", _FLOAT),
  "mask": ("T", _BOOL),
  "times": ("T 2", _F32),
  "tokens": ("T", _INT),
  "subtitle": ("T", _INT),  # which of the subtitles, -1 for none
}
_AUDIO_FIELDS = {"samples": ("S", ("int16", *_FLOAT)), "mask": ("S", _BOOL)}
_FREE = {  # no stream
  "fuse_index": ("M", _INT),
  # By objectives: what is hidden and where, and rows whose text goes with a row.
  "mlm_positions": ("P", _INT),
  "mlm_ids": ("L", _INT),
  "mvm_positions": ("P", _INT),
  "regions_masked": ("R", _BOOL),
  "clips_masked": ("... T", _BOOL),  # [B, T], or [B, passes, T]
  "pair_text": ("K", _INT),
  "label": ("...", ("int32", *_F32)),
  "answers": ("...", ("int32", *_F32)),
  "match": ("...", _INT),
  "span": ("2", _INT),
  "relevance": ("...", _INT),
  # One number an example: [B], in packed rows [B, S].
  "example_id": ("...", _INT),
  "example_mask": ("...", _BOOL),
  "group_id": ("...", _INT),
  "segment_starts": ("S", _INT),
}


def _fields(stream):
  for streams, fields in (
    (TEXT, _TEXT_FIELDS),
    (REGIONS, _REGION_FIELDS),
    (IMAGES, {"pixels": ("H W 3", ("uint8", *_FLOAT)), "mask": ("", _BOOL)}),
    (VIDEOS, _VIDEO_FIELDS),
    (CLIPS, _CLIP_FIELDS),
    (AUDIO, _AUDIO_FIELDS),
  ):
    if stream in streams:
      return fields
  # Lists of texts carry one more axis.
  return {k: (f"K {a}".strip(), d) for k, (a, d) in _TEXT_FIELDS.items()}


# key -> (axes, dtypes): the whole contract, flat.
FIELDS = {f"{s}_{f}": v for s in STREAMS for f, v in _fields(s).items()} | _FREE
# `label_<name>` carries further labels of a corpus (shape, colour, action).
LABEL_PREFIX = "label_"


def rows(batch: Mapping) -> int:
  """Leading axis B of a batch."""
  return next(iter(batch.values())).shape[0]


def useful(batch: Mapping[str, jax.Array]) -> jax.Array:
  """[2] int32: examples that are no padding, and their real words, regions and clips.

  Frames, pixels and samples are no tokens: a run on those alone counts rows only.
  """
  real = batch.get("example_mask")
  if real is None:
    real = jnp.ones(rows(batch), bool)
  tokens = jnp.zeros((), jnp.int32)
  for stream in (*TEXT, *TEXTS, *REGIONS, *CLIPS):
    if (mask := batch.get(f"{stream}_mask")) is not None:
      own = real.reshape(len(real), -1).any(axis=1)  # packed rows have several
      own = own.reshape(-1, *[1] * (mask.ndim - 1))
      tokens += (mask & own).sum(dtype=jnp.int32)
  return jnp.stack([real.sum(dtype=jnp.int32), tokens])


def zeros(spec: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """A batch of zeros with all masks True, for initialisation."""
  check(spec)
  make = {True: jnp.ones, False: jnp.zeros}
  return {k: make[s.dtype == bool](s.shape, s.dtype) for k, s in spec.items()}


def _axes(key):
  if key.startswith(LABEL_PREFIX):
    return _FREE["label"]
  if key not in FIELDS:
    raise KeyError(
      f"batch key {key!r} is not of the contract. Streams: {', '.join(STREAMS)}; "
      f"other keys: {', '.join(_FREE)}. See vlp_jax/batch.py."
    )
  return FIELDS[key]


def check(batch: Mapping) -> None:
  """Raises KeyError, TypeError or ValueError unless keys, dtypes and shapes agree.

  Works on arrays and on shapes alike. Axes with the same letter agree within a stream,
  the leading axis over the whole batch.
  """
  if not batch:
    raise ValueError("an empty batch")
  sizes = {}
  for key, x in batch.items():
    axes, dtypes = _axes(key)
    dtype = np.dtype(x.dtype).name
    if dtype not in dtypes:
      raise TypeError(f"{key} is {dtype}; the contract wants one of {dtypes}.")
    names = axes.split()
    free = names[:1] == ["..."]
    want = ["B", *names[1:]] if free else ["B", *names]
    if len(x.shape) < len(want) or (len(x.shape) > len(want) and not free):
      raise ValueError(f"{key} has shape {tuple(x.shape)}; expected [B {axes}].")
    stream = key.rsplit("_", 1)[0]
    pairs = [("B", x.shape[0]), *zip(names[::-1], x.shape[::-1], strict=False)]
    for name, size in pairs:
      if name == "...":
        continue
      if name.isdigit() and int(name) != size:
        raise ValueError(f"{key} has shape {tuple(x.shape)}; expected [B {axes}].")
      # D and C differ between fields of one stream: widths, not positions.
      where = name if name == "B" else (stream, name, key if name in "DC" else "")
      known = sizes.setdefault(where, (size, key))
      if known[0] != size:
        raise ValueError(
          f"axis {name} of {key} is {size}, but {known[1]} has {known[0]}."
        )
