"""Sounds and words in one space: an audio tower and a bag of word vectors.

The network of spoken digits on a second at 8 kHz (100 x 40) is 10 MFLOP.
"""

from vlp_jax import resolve
from vlp_jax.costs import contrast, families, flops, towers
from vlp_jax.costs.towers import sound

MODELS = ("audio_text",)


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part; `lengths` may hold words, the real ones of a text."""
  name, rows = families.known(objective, contrast.OBJECTIVES), families.rows(batch)
  out = {}
  if "audio_samples" in batch:
    heard = sound.spectrogram(model.front_end, batch["audio_samples"].shape[1])
    cls = families.source(model).TOWERS[model.tower]
    tower = resolve.bind(cls, dict(model.tower_args))()
    net = towers.count(tower, (heard.frames, heard.bins), 1)
    out |= net.scaled(rows, "audio") | {"mel": rows * heard.flops}
    out["head"] = rows * flops.linear(1, net.features, model.embed_dim)
  if "text_ids" in batch:
    words = (lengths or {}).get("words", batch["text_ids"].shape[1])
    up = flops.linear(words, model.word_dim, model.text_mlp_dim)
    out["text"] = rows * (up + flops.linear(1, model.text_mlp_dim, model.embed_dim))
  if name and {"head", "text"} <= set(out):
    out[families.LOSS] = contrast.scores(rows, rows, model.embed_dim)
  return out


def frozen(model, objective) -> list[str]:
  return ["mel"]  # of samples: nothing in it learns


def moved(model, batch, shards, parts) -> list[tuple[str, int, float, str]]:
  if not {"audio_samples", "text_ids"} <= set(batch):
    return []
  return contrast.gathered(families.rows(batch), model.embed_dim, shards)
