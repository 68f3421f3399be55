"""A table of word vectors, alone, into a model that looks words up.

The HowTo100M and MIL-NCE models start from GoogleNews word2vec, frozen. For a
vocabulary of words, `numpy.save("words.npy", vocab.vectors("GoogleNews.bin"))` makes
the file; `init_from = dict(path="words.npy", importer="word_table")` takes it in.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.importers import Report, Source, finish, shapes


def convert(
  arrays: Mapping[str, np.ndarray], model, *, at: str = ""
) -> tuple[dict, Report]:
  """The one array [V, D] of a file as the parameter `at`; all others stay as they are.

  Args:
    at: path of the parameter; "" takes the one called `words`.
  Raises: ValueError if there is not one such array, parameter or shape.
  """
  want = shapes(model)
  found = [at] if at else [k for k in want if k.rsplit("/", 1)[-1] == "words"]
  if len(found) != 1 or found[0] not in want:
    raise ValueError(f"{len(found)} tables of words {found}; name one of {list(want)}.")
  if len(arrays) != 1:
    raise ValueError(f"{len(arrays)} arrays {sorted(arrays)[:5]}; expected one [V, D].")
  source = Source(arrays)
  flat = {found[0]: source.take(next(iter(arrays)))}
  return finish(flat, want, source, may_miss=(r".*",))
