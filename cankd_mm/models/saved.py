"""What autograd keeps for a backward pass."""

from contextlib import contextmanager
from typing import Dict, Iterator

import torch
from torch import Tensor, nn


@contextmanager
def saved_bytes() -> Iterator[Dict[int, int]]:
    """Note the size of everything that is kept for a backward pass meanwhile, but for parameters.

    Yields:
        dict[int, int]: The bytes of every storage.
    """
    held: Dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage._cdata] = storage.nbytes()  # on the meta device all addresses are zero
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield held
