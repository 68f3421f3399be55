"""Words one after the other: the autoregressive language model."""

import jax.numpy as jnp
import optax

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking


def lm(apply, variables, batch, key):
  """Mean cross entropy of each token given those before it, over all real tokens.

    L = - sum_i sum_{t > 0} log p(w_it | w_i0 .. w_i,t-1) / sum_i (n_i - 1)

  The first token ([CLS]) is given, the last ([SEP]) is predicted. The model must attend
  to earlier tokens only: nothing here can see that it does.

  Reads text_ids, text_mask [B, L], example_id; adds mlm_positions [B, L - 1], 0 to
  L - 2, and wants mlm_logits [B, L - 1, V] there. Not for packed rows.
  """
  ids, mask = batch["text_ids"], batch["text_mask"]
  rows, length = ids.shape
  if length < 2:
    raise ValueError(f"a language model needs texts of 2 tokens or more, not {length}.")
  places = jnp.broadcast_to(jnp.arange(length - 1, dtype=jnp.int32), (rows, length - 1))
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(
    variables, batch | {"mlm_positions": places}, rng=rng, train=True
  )
  target, where = ids[:, 1:], mask[:, 1:] & mask[:, :-1]
  if "example_mask" in batch:
    where &= batch["example_mask"][:, None]
  logits = wide(out["mlm_logits"])
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  right = Mean.of(logits.argmax(-1) == target, where)
  return {"lm": Term(*Mean.of(xent, where))}, {"lm/accuracy": right}, mutable
