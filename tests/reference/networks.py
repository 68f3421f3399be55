"""FLOPs of published networks, layer by layer from the tables of their papers.

A layer is its number of outputs times the products behind each, in plain loops over
plain numbers: nothing of `vlp_jax` is read. Maps are sizes of T, H, W or some of them;
`pads` says how a window hangs over the border: "half" of it (torch), "same" (one place
for each stride, TensorFlow), "none".
"""

import itertools
import math

# S3D-G's mixed blocks: 1x1; 1x1 before and 3x3x3 after, twice; 1x1 behind the pool.
MIXED = {
  "3b": (64, 96, 128, 16, 32, 32),
  "3c": (128, 128, 192, 32, 96, 64),
  "4b": (192, 96, 208, 16, 48, 64),
  "4c": (160, 112, 224, 24, 64, 64),
  "4d": (128, 128, 256, 24, 64, 64),
  "4e": (112, 144, 288, 32, 64, 64),
  "4f": (256, 160, 320, 32, 128, 128),
  "5b": (256, 160, 320, 32, 128, 128),
  "5c": (384, 192, 384, 48, 128, 128),
}


def places(size, window, stride, pads):
  """Places of a window along an axis, one by one."""
  if pads == "same":
    return len(range(0, size, stride))
  around = window // 2 if pads == "half" else 0
  starts = range(-around, size + around - window + 1, stride)
  return len(starts)


def slide(maps, window, strides, pads):
  """The map behind a convolution or a pool."""
  return [places(*axis, pads) for axis in zip(maps, window, strides, strict=True)]


def conv(maps, window, width, features):
  """FLOPs of a convolution with these places out."""
  total = 0
  for _ in range(features):
    total += 2 * math.prod(maps) * math.prod(window) * width
  return total


def dense(*widths):
  """FLOPs of linear layers on one vector."""
  return sum(2 * a * b for a, b in itertools.pairwise(widths))


def resnet50(size, channels, pads, *, depths=(3, 4, 6, 3), widths=None, stem=64):
  """(FLOPs, last map) of bottlenecks of a quarter, with the stride in the 3 x 3."""
  widths = widths or (256, 512, 1024, 2048)
  maps = slide(size, (7, 7), (2, 2), pads)
  total, width = conv(maps, (7, 7), channels, stem), stem
  maps = slide(maps, (3, 3), (2, 2), pads)
  for stage, (depth, out) in enumerate(zip(depths, widths, strict=True)):
    for block in range(depth):
      stride = 2 if stage > 0 and block == 0 else 1
      after = slide(maps, (3, 3), (stride, stride), pads)
      total += conv(maps, (1, 1), width, out // 4)
      total += conv(after, (3, 3), out // 4, out // 4)
      total += conv(after, (1, 1), out // 4, out)
      if block == 0:
        total += conv(after, (1, 1), width, out)
      maps, width = after, out
  return total, maps


def s3d(frames, size, pads, *, flat=False):
  """FLOPs of S3D-G's convolutions and gates, without a linear layer behind.

  The stem is 2 x 4 x 4 on pixels folded by 2.
  Args:
    pads: of the stem; "half" (MIL-NCE's port) makes one place too many on each axis,
      dropped behind the norm. flat: the network deflated to a picture.
  """
  deep, fold = (1, (1, 2, 2)) if flat else (3, (2, 2, 2))
  window = (1, 4, 4) if flat else (2, 4, 4)
  maps = [n // k for n, k in zip((frames, size, size), fold, strict=True)]
  stem = slide(maps, window, (1, 1, 1), pads)
  total = conv(stem, window, 3 * math.prod(fold), 64)
  maps = slide(maps, (1, 3, 3), (1, 2, 2), "same")
  total += conv(maps, (1, 1, 1), 64, 64)
  total += conv(maps, (1, 3, 3), 64, 192) + conv(maps, (deep, 1, 1), 192, 192)
  total += dense(192, 192)
  maps, width = slide(maps, (1, 3, 3), (1, 2, 2), "same"), 192
  for name, (b0, b1a, b1b, b2a, b2b, b3) in MIXED.items():
    if name in ("4b", "5b"):  # pools of time and space
      half = (2, 2, 2)
      maps = slide(maps, half, half, "same")
    for features in (b0, b1a, b2a, b3):
      total += conv(maps, (1, 1, 1), width, features)
    for a, b in ((b1a, b1b), (b2a, b2b)):
      total += conv(maps, (1, 3, 3), a, b) + conv(maps, (deep, 1, 1), b, b)
    branches = (b0, b1b, b2b, b3)
    total += sum(dense(b, b) for b in branches)
    width = sum(branches)
  return total


def i3d(frames, size):
  """FLOPs of Inception-v1 inflated (arXiv 1705.07750), without a linear layer."""
  cube = (3, 3, 3)
  maps = slide((frames, size, size), (7, 7, 7), (2, 2, 2), "same")
  total = conv(maps, (7, 7, 7), 3, 64)
  maps = slide(maps, (1, 3, 3), (1, 2, 2), "same")
  total += conv(maps, (1, 1, 1), 64, 64) + conv(maps, cube, 64, 192)
  maps, width = slide(maps, (1, 3, 3), (1, 2, 2), "same"), 192
  for name, (b0, b1a, b1b, b2a, b2b, b3) in MIXED.items():
    if name in ("4b", "5b"):
      maps = slide(maps, (2, 2, 2), (2, 2, 2), "same")
    total += conv(maps, (1, 1, 1), width, b0 + b1a + b2a + b3)
    total += conv(maps, cube, b1a, b1b) + conv(maps, cube, b2a, b2b)
    width = b0 + b1b + b2b + b3
  return total


def resnet3d18(frames, size, kinds, *, middles="conv"):
  """FLOPs of torchvision's 18-layer video networks: "2+1", "3d" or "2d" a stage.

  Args: middles: of "2+1", a width for each convolution or for each block.
  """

  def one(kind, before, after, width, out, middle):
    if kind == "3d":
      return conv(after, (3, 3, 3), width, out)
    if kind == "2d":
      return conv(after, (1, 3, 3), width, out)
    space = [before[0], *after[1:]]
    return conv(space, (1, 3, 3), width, middle) + conv(after, (3, 1, 1), middle, out)

  maps = slide((frames, size, size), (3, 7, 7), (1, 2, 2), "half")
  if kinds[0] == "2+1":
    total = conv(maps, (1, 7, 7), 3, 45) + conv(maps, (3, 1, 1), 45, 64)
  else:
    total = conv(maps, (3, 7, 7), 3, 64)
  width = 64
  for stage, (kind, out) in enumerate(zip(kinds, (64, 128, 256, 512), strict=True)):
    for block in range(2):
      stride = 2 if stage > 0 and block == 0 else 1
      strides = (1 if kind == "2d" else stride, stride, stride)
      after = slide(maps, (3, 3, 3), strides, "half")
      first = 27 * width * out // (9 * width + 3 * out)
      second = first if middles == "block" else 27 * out * out // (12 * out)
      total += one(kind, maps, after, width, out, first)
      total += one(kind, after, after, out, out, second)
      if stride == 2:
        total += conv(after, (1, 1, 1), width, out)
      maps, width = after, out
  return total


def pairs_of_3x3(size, channels, *, stride=1):
  """(FLOPs, last map) of L3-Net's tower: two 3 x 3 a block, halved between."""
  maps, total = list(size), 0
  for block, width in enumerate((64, 128, 256, 512)):
    if block > 0:
      maps = slide(maps, (2, 2), (2, 2), "none")
    for step in (stride if block == 0 else 1, 1):
      maps = slide(maps, (3, 3), (step, step), "same")
      total += conv(maps, (3, 3), channels, width)
      channels = width
  return total, maps


def vgg(size):
  """FLOPs of AVTS's network of sound."""
  maps, total, channels = list(size), 0, 1
  for block, (width, depth) in enumerate(
    ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2))
  ):
    if block > 0:
      maps = slide(maps, (2, 2), (2, 2), "none")
    for _ in range(depth):
      total, channels = total + conv(maps, (3, 3), channels, width), width
  return total + dense(512, 512)


def acoustic18(size):
  """FLOPs of XDC's network of sound."""
  maps, total, width = list(size), conv(size, (3, 3), 1, 16), 16
  blocks = [(32, 2), (32, 1), (32, 1)]
  for out in (64, 128, 256, 512):
    blocks += [(out, 2), (out, 1)]
  for out, stride in blocks:
    maps = slide(maps, (3, 3), (stride, stride), "half")
    total += conv(maps, (3, 3), width, out) + conv(maps, (3, 3), out, out)
    if stride == 2:
      total += conv(maps, (1, 1), width, out)
    width = out
  return total


def layer(tokens, width, *, context=0):
  """FLOPs of a Transformer layer with 4 D inside; of a decoder's with a context."""
  total = 0
  for _ in ("query", "key", "value", "output"):
    total += tokens * dense(width, width)
  for _ in ("scores", "sum"):
    total += 2 * tokens * tokens * width
  total += tokens * dense(width, 4 * width, width)
  if context:
    total += 2 * tokens * dense(width, width) + 2 * context * dense(width, width)
    total += 2 * 2 * tokens * context * width
  return total


def words(count, width, size):
  """FLOPs of BERT's head on so many places."""
  return count * dense(width, width, size)


def cut(frames, size, side, blur=0):
  """FLOPs of cropping to side x side and, with a reach, of blurring, by products."""
  total = 2 * 3 * (side * size * size + side * side * size)
  if blur:
    wide = side + 2 * blur
    total += 2 * 3 * (side * wide * wide + side * side * wide)
  return frames * total
