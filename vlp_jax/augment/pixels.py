"""Views of a clip or a picture: crops, flips, colours and blur in a row.

`view` takes one example [T, H, W, 3] with pixels in 0..1 (T = 1 for a picture) and
makes the changes its keywords ask for, in this order, each with a key of its own: to
leave one out changes none of the others' draws. The single changes are in
`augment.crops`, `augment.colours` and `augment.convolve`.
"""

from collections.abc import Mapping

import jax

from vlp_jax import resolve
from vlp_jax.augment import colours, convolve, crops

_CHANGES = {  # name -> function; the order of `view`
  "scale": crops.scale_jitter,
  "crop": crops.crop_resize,
  "flip": crops.flip,
  "jitter": colours.jitter,
  "grey": colours.grey,
  "blur": colours.blur,
  "solarise": colours.solarise,
  "convolve": convolve.convolve,
}


def view(
  key: jax.Array,
  frames: jax.Array,
  *,
  size: int | tuple[int, int],
  scale: Mapping | None = None,
  crop: Mapping | None = None,
  flip: Mapping | None = None,
  jitter: Mapping | None = None,
  grey: Mapping | None = None,
  blur: Mapping | None = None,
  solarise: Mapping | None = None,
  convolve: Mapping | None = None,
) -> jax.Array:
  """One view [T, h, w, 3], float32 in 0..1 unless filtered, of frames [T, H, W, 3].

  Args:
    size: height and width of the view, or one number for both.
    scale, crop, ..., convolve: keywords of `crops.scale_jitter`, `crops.crop_resize`,
      `crops.flip`, `colours.jitter`, `.grey`, `.blur`, `.solarise` and
      `convolve.convolve`; {} for their defaults, None to leave it out. With neither
      `scale` nor `crop` the frames are resized.
  Raises: UserError for a keyword that the change does not know, or both of the first.
  """
  given = dict(
    scale=scale,
    crop=crop,
    flip=flip,
    jitter=jitter,
    grey=grey,
    blur=blur,
    solarise=solarise,
    convolve=convolve,
  )
  changes = bind(given, size)
  if scale is None and crop is None:
    frames = crops.resize(frames, size)
  for i, name in enumerate(_CHANGES):
    if name in changes:
      frames = changes[name](jax.random.fold_in(key, i), frames)
  return frames


def bind(given: Mapping[str, Mapping | None], size) -> dict:
  """{name: change(key, frames)} of the settings of a view that are not None."""
  if given.get("scale") is not None and given.get("crop") is not None:
    raise ValueError("a view is cropped by `scale` or by `crop`, not by both.")
  out = {}
  for name, settings in given.items():
    if settings is None:
      continue
    more = dict(size=size) if name in ("scale", "crop") else {}
    out[name] = resolve.bind(
      _CHANGES[name],
      {**settings, **more},
      skip=2,
      what=f"view.{name}",
    )
  return out
