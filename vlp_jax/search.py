"""Items of a run's retrieval evaluation, found by any text.

gallery = search.Gallery("runs/quickstart")
found = gallery.find("a red circle spins", 5)       # the best first
frames = gallery.frames([f.item for f in found])    # {item: uint8 [T, H, W, 3]}
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from vlp_jax import evaluate, infer, resolve, sharding, workdir
from vlp_jax import settings as settings_lib
from vlp_jax.errors import UserError
from vlp_jax.evaluators import collect, retrieval


class Found(NamedTuple):
  """An item and its score; `text` is what the evaluation says of it, if anything."""

  item: int
  score: float
  text: str


class Gallery:
  """The items of one evaluation, embedded; they are kept in the workdir's `search/`.

  Args:
    path: a workdir with a checkpoint; its config names the data.
    name: of a `retrieval` evaluation with texts; default the first one.
    track: wraps the batches while they are embedded, to show how far it is.
  Attributes:
    name: of the evaluation. model: the `infer.Model`. ids: [N], of the items.
    embeds: [N, D]; where the evaluation compares cosines, of norm 1.
  Raises: UserError for a run that has no such evaluation or no vocabulary.
  """

  def __init__(
    self,
    path: str,
    *,
    name: str = "",
    track: Callable[[Iterable, int], Iterable] = lambda batches, total: batches,
  ):
    config = settings_lib.with_twins(workdir.read_config(path))
    if not config:
      raise UserError(f"{path} is no workdir of a run: it has no config.json.")
    s = settings_lib.load(config)
    self.name = _named(s, name, path)
    entry = s.evals[self.name]
    self.inputs = {k: dict(s.input) | dict(entry[k]) for k in ("texts", "videos")}
    for k, given in self.inputs.items():
      settings_lib.check_input(f"evals.{self.name}.{k}", given)
    self.model = infer.Model.load(path)
    if self.model.tokeniser is None:
      raise UserError(f"{path} was trained without a vocabulary of words on disk.")
    mesh = sharding.mesh(s.mesh)
    self.variables = jax.device_put(self.model.variables, sharding.replicated(mesh))
    only = dataclasses.replace(s, evals={self.name: entry})
    parts = (only, self.model.apply, mesh, self.model.tokeniser)
    built = evaluate.build(*parts, objectives={}, vocab=self.model.tokeniser.spec)
    self.evaluator = built[self.name]
    at = workdir.root(path) / "search" / f"{self.name}.npz"
    self.ids, self.embeds = self._embedded(at, track)
    self.texts = self._told()

  def find(self, text: str, count: int = 5) -> list[Found]:
    """The best items for a text. Raises: UserError if it has no known word."""
    given = self._query(text) | {"example_id": np.zeros(1, np.int32)}
    forward, output = self.evaluator.embed_texts, self.evaluator.outputs[0]
    query = forward(self.variables, [given])[output]
    scores = infer.scores(self._unit(query), self.embeds)[0]
    best = np.argsort(-scores, kind="stable")[:count]
    told = [self.texts.get(int(self.ids[i]), "") for i in best]
    return [
      Found(int(self.ids[i]), float(scores[i]), t)
      for i, t in zip(best, told, strict=True)
    ]

  def frames(self, items: Sequence[int]) -> dict[int, np.ndarray]:
    """{item: video_frames} of those that are pictures; {} for features."""
    keys = ("video_frames",)
    found = collect.rows(self.evaluator.videos, set(items), keys)
    return {i: row[keys[0]] for i, row in found.items() if keys[0] in row}

  def _unit(self, embeds):
    return retrieval.unit(embeds) if self.evaluator.normalise else embeds

  def _query(self, text: str) -> dict[str, np.ndarray]:
    tokeniser = self.model.tokeniser
    spec, ids = tokeniser.spec, tokeniser.encode(text)
    if not [i for i in ids if i != spec.unk_id]:
      raise UserError(f"no word of {text!r} is in the vocabulary of the run.")
    first, last = ([i] if i >= 0 else [] for i in (spec.cls_id, spec.sep_id))
    most = self.inputs["texts"].get("max_words")
    ids = ids[: most and max(most - len(first) - len(last), 1)]
    ids = np.asarray([*first, *ids, *last], np.int32)
    # A compile for each eight words, not for each length.
    padded = np.pad(ids, (0, -len(ids) % 8), constant_values=spec.pad_id)
    real = np.arange(len(padded)) < len(ids)
    return {"text_ids": padded[None], "text_mask": real[None]}

  def _embedded(self, at, track):
    """(ids, embeddings) from the file of an earlier call, or made."""
    given = self.inputs["videos"]
    info = resolve.module("data_pipelines", "index").read_info(given["dir"])
    told = evaluate.digest(self.model.variables), info.get("fingerprint"), given
    made = hashlib.sha256(repr(told).encode()).hexdigest()
    if at.exists():
      with at.open("rb") as f, np.load(f, allow_pickle=False) as kept:
        if str(kept["made"]) == made:
          return kept["ids"], kept["embeds"]
    output, videos = self.evaluator.outputs[1], self.evaluator.videos
    batches = track(videos, len(videos.batches))
    found = self.evaluator.embed_items(self.variables, batches)
    groups = collect.group_mean(found[output], found.get("group_id"))
    ids, embeds = found["example_id"][groups.first], self._unit(groups.values)
    at.parent.mkdir(parents=True, exist_ok=True)
    with at.open("wb") as f:
      np.savez(f, made=made, ids=ids, embeds=embeds)
    return ids, embeds

  def _told(self) -> dict[int, str]:
    """{item: its first text}, where texts come one a row."""
    out: dict[int, str] = {}
    for batch in self.evaluator.texts:
      if "text_ids" not in batch or batch["text_ids"].ndim != 2:
        return {}
      keys = ("text_ids", "relevance", "example_id", "example_mask")
      rows = collect.fetch({k: batch[k] for k in keys if k in batch})
      items = rows.get("relevance", rows["example_id"])
      items = items.reshape(len(items), -1)[:, 0]
      for item, ids in zip(items.tolist(), rows["text_ids"], strict=True):
        if item not in out:
          out[item] = self.model.tokeniser.decode(ids.tolist())
    return out


def _named(s, name: str, path: str) -> str:
  """The evaluation that was asked for, or the first one where words find items."""
  fit = []
  for key, entry in s.evals.items():
    methods = entry.get("methods", ("encode_text", ""))
    if entry.get("evaluator") == "retrieval" and methods[0] == "encode_text":
      fit.append(key)
  if name and name not in fit:
    raise UserError(f"--evaluation {name!r}.{resolve.nearest(name, fit)}")
  if not fit:
    raise UserError(f"no evaluation of {path} is a `retrieval` by texts.")
  return name or fit[0]
