"""Which classes a text names: words found in captions, as labels of their clips."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from vlp_jax import vocab


def labels(texts: tf.Tensor, classes: Sequence[Sequence[str]]) -> tf.Tensor:
  """[C] int32, 1 where one of the texts has a form of the class as a whole word.

  Args:
    texts: [n] strings; letters' case does not count.
    classes: forms of each, as `vocab.classes` gives them.
  """
  forms = [form.lower() for own in classes for form in own]
  of = np.repeat(np.arange(len(classes)), [len(own) for own in classes])
  plain = tf.strings.lower(texts, encoding="utf-8")
  words = tf.strings.split(tf.strings.regex_replace(plain, r"[^\pL\pN']+", " ")).values
  found = tf.reduce_any(words[:, None] == tf.constant(forms)[None], axis=0)
  return tf.math.unsorted_segment_max(tf.cast(found, tf.int32), of, len(classes))


class Mentions:
  """Preprocessor: label_<name> [C] for each list, out of what `texts` names.

  Args:
    given: {name: words or a file of `vocab.classes`}.
  """

  def __init__(self, given):
    self.lists = {k: vocab.classes(v, f"input.named.{k}") for k, v in given.items()}

  def name(self, x):
    """The example with its labels."""
    texts = x["caption/text"]
    return x | {f"label_{k}": labels(texts, own) for k, own in self.lists.items()}

  def shapes(self) -> dict:
    """{key: (shape, dtype)} of what it adds."""
    return {f"label_{k}": ((len(v),), tf.int32) for k, v in self.lists.items()}
