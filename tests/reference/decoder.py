"""A decoder block by loops, from its formula; parameters as flax names them."""

import math

import numpy as np


def norm(p, x):
  y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
  return y * p["scale"] + p["bias"]


def attend(query, key, value, sees):
  """query [L, N, d], key, value [K, N, d], sees [L, K] -> [L, N, d]."""
  out = np.zeros_like(query)
  for i, n in np.ndindex(query.shape[:2]):
    at = [j for j in range(len(key)) if sees[i, j]] or list(range(len(key)))
    some = any(sees[i])
    s = [query[i, n] @ key[j, n] / math.sqrt(query.shape[-1]) * some for j in at]
    w = np.exp(np.array(s) - max(s))
    out[i, n] = sum(a * value[j, n] for a, j in zip(w / w.sum(), at, strict=True))
  return out


def block(p, x, where, context, context_where):
  """One row: x [L, D], where [L], context [K, C], context_where [K]."""
  linear = lambda p, x, eq: np.einsum(eq, x, p["kernel"]) + p["bias"]
  own = p["attention"]
  query, key, value = np.moveaxis(linear(own["qkv"], x, "ld,dthk->lthk"), 1, 0)
  length = len(x)
  sees = np.array([[j <= i and where[j] for j in range(length)] for i in range(length)])
  y = linear(own["out"], attend(query, key, value, sees), "lhk,hkd->ld")
  x = norm(p["attention_norm"], x + y)
  far = p["context"]
  (query,) = np.moveaxis(linear(far["q"], x, "ld,dthk->lthk"), 1, 0)
  key, value = np.moveaxis(linear(far["kv"], context, "lc,cthk->lthk"), 1, 0)
  sees = np.broadcast_to(context_where, (length, len(context)))
  y = linear(far["out"], attend(query, key, value, sees), "lhk,hkd->ld")
  x = norm(p["context_norm"], x + y)
  y = linear(p["mlp_in"], x, "ld,dm->lm")
  y = 0.5 * y * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
  return norm(p["mlp_norm"], x + linear(p["mlp_out"], y, "lm,md->ld"))
