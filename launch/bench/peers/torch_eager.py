"""The measured step in PyTorch eager; a process that answers rounds on its input.

    python launch/bench/peers/torch_eager.py '{"width": 256, ..., "attention": "layer"}'

Needs torch alone, not this project. A line with a number of steps is answered by one
with their processor seconds; the end of the input ends it. `attention`: "layer" is
`nn.TransformerEncoderLayer` (with its scaled_dot_product_attention), "matmul" the
products, softmax and dropout written out, as in the published codes of these systems.
"""

import json
import math
import sys
import time
import types

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-12


class Layer(nn.Module):
  """A post-norm layer of BERT with attention written out."""

  def __init__(self, width, num_heads, dropout):
    super().__init__()
    self.heads, self.drop = num_heads, nn.Dropout(dropout)
    self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
    self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    self.first, self.second = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)

  def forward(self, x, bias):
    split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    y = self.drop(scores.softmax(-1)) @ v
    x = self.first(x + self.drop(self.out(y.transpose(1, 2).flatten(2))))
    return self.second(x + self.drop(self.down(functional.gelu(self.up(x)))))


class Net(nn.Module):
  """Words and regions in one sequence; logits [B, 2] of the first word's state."""

  def __init__(self, s):
    super().__init__()
    table, norm = (
      (lambda n: nn.Embedding(n, s.width)),
      lambda: nn.LayerNorm(s.width, EPS),
    )
    self.words, self.places, self.kinds = table(s.vocab_size), table(512), table(2)
    self.features, self.boxes = nn.Linear(s.region_dim, s.width), nn.Linear(7, s.width)
    self.norms, self.drop = (
      nn.ModuleList(norm() for _ in range(4)),
      nn.Dropout(s.dropout),
    )
    self.pooler, self.head = nn.Linear(s.width, s.width), nn.Linear(s.width, 2)
    self.whole = s.attention == "layer"
    if self.whole:
      layer = nn.TransformerEncoderLayer(
        s.width, s.num_heads, 4 * s.width, s.dropout, "gelu", EPS, batch_first=True
      )
      self.stack = nn.TransformerEncoder(layer, s.depth, enable_nested_tensor=False)
    else:
      layers = (Layer(s.width, s.num_heads, s.dropout) for _ in range(s.depth))
      self.stack = nn.ModuleList(layers)

  def forward(self, ids, features, boxes, mask):
    words = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
    seen = self.norms[0](self.features(features)) + self.norms[1](self.boxes(boxes))
    seen = self.norms[2](seen + self.kinds.weight[1])
    x = torch.cat([self.drop(self.norms[3](words)), self.drop(seen)], dim=1)
    if self.whole:
      x = self.stack(x, src_key_padding_mask=~mask)
    else:
      bias = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[:, None, None]
      for layer in self.stack:
        x = layer(x, bias)
    return self.head(torch.tanh(self.pooler(x[:, 0])))


def main():
  s = types.SimpleNamespace(**json.loads(sys.argv[1]))
  torch.set_num_threads(1)
  torch.manual_seed(0)
  net = Net(s).train()
  tx = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01)
  ids = torch.randint(5, s.vocab_size, (s.rows, s.words))
  features = torch.randn(s.rows, s.regions, s.region_dim)
  boxes = torch.rand(s.rows, s.regions, 7)
  mask = torch.ones(s.rows, s.words + s.regions, dtype=torch.bool)
  label = torch.randint(0, 2, (s.rows,))
  print("ready", torch.__version__, flush=True)
  for line in sys.stdin:
    begin = time.process_time()
    for _ in range(int(line)):
      tx.zero_grad()
      functional.cross_entropy(net(ids, features, boxes, mask), label).backward()
      tx.step()
    print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
  main()
