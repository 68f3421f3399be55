"""Decoders of video, sound and images: files in, numpy out, without TensorFlow.

Only `data_pipelines.prepare` and demos decode user files. Whatever a file holds, the
outcome is an array or a `MediaError` of one line; sizes and lengths are judged by the
header, before memory is taken.
"""


class MediaError(ValueError):
  """A file that cannot be decoded, or should not be: `path: what is wrong`."""
