"""I3D: Inception-v1 with its kernels inflated to three dimensions (arXiv 1705.07750).

The second tower of MIL-NCE (arXiv 1912.06430). Widths and order of its stages are those
of S3D, which was made from it: 7 x 7 x 7 stem with stride 2, then `s3d.STAGES` with
whole kernels of 3 x 3 x 3 where S3D has one for space and one for time, and no gates.
SAME padding throughout; norms have no scale, since a ReLU and a linear layer follow
(published code: Sonnet's BatchNorm with its defaults, eps 1e-3).

MIL-NCE's released module was made in TensorFlow; whether its norms have a scale is not
published: `bn_scale=True` counts 12,287,264 parameters before the last linear layer,
which is the number often quoted, without scales they are 12,279,984.
"""

from collections.abc import Sequence

from vlp_jax.towers import s3d

# What makes an S3D an I3D, beside its stages.
OWN = dict(
  **s3d.PLAIN_7,
  stem_padding="tf",
  pool_padding="tf",
  bn_eps=1e-3,
  bn_unbiased=False,
  separable=False,
  gated=False,
  bn_scale=False,
)


class I3D(s3d.S3D):
  """Takes and returns what `s3d.S3D` does; stages "gate" of its table are left out."""

  space_to_depth: Sequence[int] = OWN["space_to_depth"]
  stem_window: Sequence[int] = OWN["stem_window"]
  stem_strides: Sequence[int] = OWN["stem_strides"]
  stem_padding: str = OWN["stem_padding"]
  pool_padding: str = OWN["pool_padding"]
  bn_eps: float = OWN["bn_eps"]
  bn_unbiased: bool = OWN["bn_unbiased"]
  separable: bool = OWN["separable"]
  gated: bool = OWN["gated"]
  bn_scale: bool = OWN["bn_scale"]
