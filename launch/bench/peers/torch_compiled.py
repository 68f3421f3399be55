"""The measured step in PyTorch as it is fastest; a process that answers rounds.

    python launch/bench/peers/torch_compiled.py '{"width": 768, ..., "device": "cuda"}'

`torch.compile`, bfloat16 autocast on float32 parameters, scaled_dot_product_attention,
queries, keys and values by one matmul, fused AdamW. Needs torch alone. As
`torch_eager.py`, but with wall-clock seconds; "compile": false leaves the compiler out.
"""

import json
import sys
import time
import types

import torch
import torch_eager
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
  """A post-norm layer of BERT."""

  def __init__(self, s):
    super().__init__()
    self.heads, self.rate = s.num_heads, s.attention_dropout
    self.drop = nn.Dropout(s.dropout)
    self.qkv, self.out = nn.Linear(s.width, 3 * s.width), nn.Linear(s.width, s.width)
    self.up, self.down = (
      nn.Linear(s.width, 4 * s.width),
      nn.Linear(4 * s.width, s.width),
    )
    self.first, self.second = (nn.LayerNorm(s.width, torch_eager.EPS) for _ in range(2))

  def forward(self, x, mask):
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    rate = self.rate if self.training else 0.0
    y = functional.scaled_dot_product_attention(q, k, v, mask, rate)
    x = self.first(x + self.drop(self.out(y.transpose(1, 2).flatten(2))))
    return self.second(x + self.drop(self.down(functional.gelu(self.up(x)))))


class Net(torch_eager.Net):
  """The eager peer's embeddings and head around these layers."""

  def __init__(self, s):
    super().__init__(types.SimpleNamespace(**vars(s) | {"attention": "matmul"}))
    self.stack = nn.ModuleList(Layer(s) for _ in range(s.depth))

  def forward(self, ids, features, boxes, mask):
    words = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kinds.weight[0]
    seen = self.norms[0](self.features(features)) + self.norms[1](self.boxes(boxes))
    seen = self.norms[2](seen + self.kinds.weight[1])
    x = torch.cat([self.drop(self.norms[3](words)), self.drop(seen)], dim=1)
    for layer in self.stack:
      x = layer(x, mask[:, None, None])
    return self.head(torch.tanh(self.pooler(x[:, 0])))


def main():
  s = types.SimpleNamespace(**json.loads(sys.argv[1]))
  if s.device == "cuda" and not torch.cuda.is_available():
    sys.exit("this torch sees no GPU")
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  at, wait = torch.device(s.device), lambda: None
  if s.device == "cuda":
    wait = torch.cuda.synchronize
  net = Net(s).train().to(at)
  tx = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
  ids = torch.randint(5, s.vocab_size, (s.rows, s.words), device=at)
  features = torch.randn(s.rows, s.regions, s.region_dim, device=at)
  boxes = torch.rand(s.rows, s.regions, 7, device=at)
  mask = torch.ones(s.rows, s.words + s.regions, dtype=torch.bool, device=at)
  label = torch.randint(0, 2, (s.rows,), device=at)

  def loss_of():
    with torch.autocast(s.device, torch.bfloat16):
      logits = net(ids, features, boxes, mask)
    return functional.cross_entropy(logits.float(), label)

  if s.compile:
    loss_of = torch.compile(loss_of)

  def take(steps):
    for _ in range(steps):
      tx.zero_grad(set_to_none=True)
      loss_of().backward()
      tx.step()
    wait()

  take(2)  # compiles
  print("ready", torch.__version__, flush=True)
  for line in sys.stdin:
    begin = time.perf_counter()
    take(int(line))
    print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
  main()
