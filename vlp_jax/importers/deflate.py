"""A video tower's variables as those of an image tower; MMV files and runs as both.

  W2d = sum_t W3d[t]

so that a picture gives what a clip of this picture, repeated, gives (arXiv 2006.16228,
sec. 3.3). It is exact but for the zeros before and after a clip; `objectives.deflation`
learns those away. A kernel over folded pixels is summed over the frames of a block as
well. TSM-ResNet keeps its variables: its shift becomes a permutation of channels.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.importers import Report, Source, all_shapes, finish, mmv


def kernel(x: np.ndarray, block: int = 1) -> np.ndarray:
  """[t, h, w, I, O] to [1, h, w, I / block, O].

  Args:
    block: frames that are folded into the channels (dt, dh, dw, c) of the input.
  """
  t, h, w, inputs, outputs = x.shape
  return x.reshape(t, h, w, block, inputs // block, outputs).sum((0, 3))[None]


def tower(
  flat: Mapping[str, np.ndarray], *, block: int = 1, stem: str = "conv1/conv1/kernel"
) -> dict[str, np.ndarray]:
  """Path -> array of a tower, deflated; what is no 3-D kernel stays.

  Args:
    flat: paths within the tower, as `conv1/conv1/kernel`.
    block: of `space_to_depth`, in time; it concerns the kernel called `stem`.
  """
  return {
    k: kernel(x, block if k == stem else 1) if x.ndim == 5 else x
    for k, x in flat.items()
  }


def convert(arrays: Mapping[str, np.ndarray], model) -> tuple[dict, Report]:
  """Variables of `models.deflated.Model` from a released MMV file, or our own model.

  Both towers start from the video network, the image tower deflated. Heads, sound and
  words are not used.
  """
  ours = any(k.startswith("params/video_tower/") for k in arrays)
  source, want = Source(arrays) if ours else mmv.read(arrays), all_shapes(model)
  videos = {k: v for k, v in want.items() if k.split("/")[1] == "video_tower"}
  flat = mmv.fill(source, videos, str if ours else mmv.published)
  block = dict(model.video_args).get("space_to_depth", (2, 2, 2))
  block = block[0] if model.video == "s3d" and block else 1
  images = {}
  for group in {k.split("/")[0] for k in flat}:
    own = {
      k.removeprefix(f"{group}/video_tower/"): x
      for k, x in flat.items()
      if k.startswith(f"{group}/")
    }
    new = tower(own, block=block)
    images |= {f"{group}/image_tower/{k}": x for k, x in new.items()}
  others = r"\w+/(?!video_tower/)"
  if not ours:
    others = r"(params|state)/text_audio_video/(?!visual_module/)"
  tree, report = finish(
    flat | images,
    want,
    source,
    reshaped=[k for k, x in images.items() if x.ndim == 5],
    surgery=("kernels summed over time",),
    may_leave=(mmv.COUNTERS, others),
  )
  return tree["params"], report
