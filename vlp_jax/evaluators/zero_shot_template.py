"""Zero-shot classification by a sentence with gaps (VideoBERT, arXiv 1904.01766, 4.3).

    [CLS] now let me show you how to [MASK] the [MASK] . [>] v_1 ... v_n [SEP]

The word distribution in each gap is restricted to a list of candidates (45 verbs and 63
objects for YouCook2); nothing is trained for it. Beside each figure stands the language
prior: the same sentence without the video, whose ranking is one for all clips.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax import vocab as vocab_lib
from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result
from vlp_jax.vocab import Vocab

TEMPLATE = "now let me show you how to [MASK] the [MASK] ."


class Evaluator:
  """Top-k accuracy of the gaps of a template, with video and without.

  Args:
    apply: of a model that gives mlm_logits [B, P, V] at mlm_positions.
    batches: re-iterable of clips; their own text_* is left out. Rows of one group_id
      (windows of a clip) are averaged in log-probability.
    candidates: for each gap in order (name, words), as (("verb", ("cut", "stir")),
      ("object", ("onion",))), where the words stand in the order of the label's
      classes, of which several may have one word; a gap without a name or words is not
      scored. Words may also be a file of `vocab.classes`, whose first forms count.
    labels: a batch key for each gap that is scored: [B] int (-1 unknown), or [B, C]
      with nonzero entries for several right classes, of which one among the k is a hit.
    template: words as they stand in `tokens`, gaps as "[MASK]", without [CLS], [SEP].
    tokens: the vocabulary file, a token a line in the order of ids; or the tokens.
    ks: cut-offs; ties count against the model.
    vocab: injected; its special ids surround the template.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    candidates: Sequence[tuple[str, str | Sequence[str]]],
    labels: Sequence[str],
    tokens: str | Sequence[str],
    template: str = TEMPLATE,
    ks: tuple[int, ...] = (1, 5),
    vocab: Vocab,
  ):
    self.batches, self.ks = batches, tuple(ks)
    ids = _ids(tokens, vocab)
    words = template.split()
    gaps = [i for i, w in enumerate(words, 1) if w == "[MASK]"]
    if len(gaps) != len(candidates):
      raise ValueError(
        f"the template has {len(gaps)} [MASK]s, candidates are given for "
        f"{len(candidates)}: {template!r}."
      )
    middle = [vocab.mask_id if w == "[MASK]" else _id(w, ids) for w in words]
    self.template = np.array([vocab.cls_id, *middle, vocab.sep_id], np.int32)
    first = lambda w: [forms[0] for forms in vocab_lib.classes(w, "candidates")]
    named = [(i, n, first(w)) for i, (n, w) in enumerate(candidates) if n and len(w)]
    if len(named) != len(labels):
      raise ValueError(f"{len(named)} gaps are scored, {len(labels)} labels given.")
    self.slots = [
      (i, name, *_choices(words, ids), label)
      for (i, name, words), label in zip(named, labels, strict=True)
    ]
    self.gaps = np.array(gaps, np.int32)
    keys = [f"slot_{i}" for i, *_ in self.slots]
    self.forward = collect.Forward(
      self._fill(apply, video=True), [*keys, *labels], optional=("group_id",)
    )
    self.prior = collect.Forward(self._fill(apply, video=False), keys)

  def _fill(self, apply, *, video):
    """`apply` on the template beside the clips: log-probabilities of the candidates."""

    def run(variables, batch, *, rng=None, train=False, method=None):
      rows = len(next(iter(batch.values())))
      clips = {k: x for k, x in batch.items() if k.startswith(("clips_", "video_"))}
      repeat = lambda x: jnp.broadcast_to(jnp.asarray(x), (rows, *x.shape))
      text = {"text_ids": repeat(self.template), "mlm_positions": repeat(self.gaps)}
      text["text_mask"] = jnp.ones(text["text_ids"].shape, bool)
      out, _ = apply(variables, text | clips if video else text, train=False)
      found = {}
      for i, _, ids, *_ in self.slots:
        logits = out["mlm_logits"][:, i, jnp.asarray(ids)]  # [B, C]
        found[f"slot_{i}"] = jax.nn.log_softmax(logits, axis=-1)
      return found, {}

    return run

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`<name>@k` and `<name>@k_prior` for every scored gap and k."""
    out = self.forward(variables, self.batches)
    blind = self.prior(variables, [self._one_row()])
    for i, name, ids, word_of, label in self.slots:
      scores = collect.group_mean(out[f"slot_{i}"], out.get("group_id"))
      classes = _relevant(out[label], len(word_of), label)[scores.first]
      right = classes @ (word_of[:, None] == np.arange(len(ids)))  # [n, C]
      known = right.any(axis=1)
      if not known.any():
        raise ValueError(f"no row has a {label}.")
      right = right[known]
      same = np.broadcast_to(blind[f"slot_{i}"], right.shape)
      chance = right.sum(axis=1)
      for k in self.ks:
        told = f"{len(ids)} candidates in gap {i + 1}; ties count against the model"
        luck = _luck(len(ids), chance, k)
        hits = _hits(scores.values[known], right, k)
        yield f"{name}@{k}", Result.of(hits, chance=luck, protocol=told)
        hits = _hits(same, right, k)
        told = f"without video, {told}"
        yield f"{name}@{k}_prior", Result.of(hits, chance=luck, protocol=told)

  def _one_row(self):
    """A batch of one row; without video the scores are the same for all."""
    return {"example_mask": np.ones(1, bool)}


def _ids(tokens, vocab) -> dict[str, int]:
  """{token: id} of a vocabulary file or of a list of tokens."""
  if isinstance(tokens, str):
    # Not `splitlines`: U+0085 and U+2028 are tokens, or parts of tokens.
    text = pathlib.Path(tokens).read_text(encoding="utf-8")
    tokens = text.removesuffix("\n").split("\n")
  if len(tokens) != vocab.size:
    raise ValueError(f"{len(tokens)} tokens for a vocabulary of {vocab.size}.")
  return {token: i for i, token in enumerate(tokens)}


def _id(word, ids) -> int:
  if word not in ids:
    raise ValueError(
      f"{word!r} is no token of the vocabulary: templates and candidates are made of "
      "single tokens."
    )
  return ids[word]


def _choices(words, ids) -> tuple[np.ndarray, np.ndarray]:
  """(ids [C] of the distinct words, [classes] which of them each class has)."""
  distinct = list(dict.fromkeys(words))
  word_of = [distinct.index(w) for w in words]
  return np.array([_id(w, ids) for w in distinct]), np.array(word_of)


def _relevant(label, count, name) -> np.ndarray:
  """[n, C] bool of class numbers [n] or multi-hot labels [n, C]."""
  if label.ndim == 2:
    if label.shape[1] != count:
      raise ValueError(f"{name} has {label.shape[1]} classes for {count} candidates.")
    return label > 0
  if label.max() >= count:
    raise ValueError(f"{name} goes up to {label.max()}; there are {count} candidates.")
  return label[:, None] == np.arange(count)


def _hits(scores, right, k) -> np.ndarray:
  """[n] bool: a right class among the best k; those it ties with are ahead of it."""
  best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
  ahead = (~(scores < best) & ~right).sum(axis=1)
  return ahead < k


def _luck(count, right, k) -> float:
  """The mean chance that k of `count` classes at random hold one of the right ones."""
  miss = np.ones(len(right))
  for j in range(min(k, count)):
    miss *= np.maximum(count - right - j, 0) / (count - j)
  return float(1 - miss.mean())
