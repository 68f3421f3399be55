"""What an image network lacks of the video network that it was (arXiv 2006.16228).

It reads image features of both, see `models.deflated`, and example_id, example_mask.
"""

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide


def l1(apply, variables, batch, key):
  """Mean absolute difference of the image tower's features and the clip's.

    L = mean_{b, c} | image_features - video_features |

  Only BatchNorm's scales and biases of the image tower are to learn; its statistics
  stay those of the video tower, so none are updated. No gradient reaches the clip's
  side.

  Returns: term `l1`, over rows with `example_mask` if given; metric
    `deflation/relative`, the same over the mean absolute value of video_features.
  """
  del key
  out, _ = apply(variables, batch, train=False)
  want = jax.lax.stop_gradient(wide(out["video_features"]))
  gap = jnp.abs(wide(out["image_features"]) - want).mean(-1)
  where = batch.get("example_mask", True)
  size = Mean.of(jnp.abs(want).mean(-1), where)
  relative = jax.lax.stop_gradient(gap) / jnp.maximum(size.value, 1e-12)
  aux = {"deflation/relative": Mean.of(relative, where)}
  return {"l1": Term(*Mean.of(gap, where))}, aux, {}
