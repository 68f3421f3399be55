"""What the fields of a model may be: types that `resolve.bind` checks at the start.

The layers tell the same mistakes to callers of their own, when they are traced; what a
config gives is refused here before anything is.
"""

from typing import Annotated, Literal

from vlp_jax.layers import attention, conv3d, decoding, dense, logmel, transformer
from vlp_jax.resolve import Span

Act = Literal[*dense.ACTIVATIONS]
Dtype = Literal["float32", "bfloat16", "float16", "float64"]
Implementation = Literal[*attention.IMPLEMENTATIONS]
Remat = Literal[*transformer.REMAT]
ConvRemat = Literal[*conv3d.REMAT]
PoolPadding = Literal[*conv3d.POOL_PADDINGS]
FrontEnd = Literal[*logmel.FRONT_ENDS]
Norm = Literal[*logmel.NORMS]
Penalty = Literal[*decoding.PENALTIES]
Rate = Annotated[float, Span(0, 1)]  # of dropout
Count = Annotated[int, Span(1)]  # of units, layers, heads, groups
