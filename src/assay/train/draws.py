"""Random numbers of private training: from the seed, or from the operating system."""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Uniform and normal numbers: from the seed, or from the operating system."""

    def __init__(self, seed: int, *, secure: bool) -> None:
        self.generator = None if secure else torch.Generator().manual_seed(seed)

    def uniform(self, num: int) -> Tensor:
        """`(num,)` in [0, 1), in steps of 2^-53."""
        if self.generator is not None:
            return torch.rand(num, generator=self.generator, dtype=torch.float64)
        whole = np.frombuffer(os.urandom(8 * num), dtype="<u8") >> np.uint64(11)
        return torch.from_numpy(whole.astype(np.float64) * 2.0**-53)

    def normal(self, shape: torch.Size) -> Tensor:
        """Standard normal float32.

        Secure: the sum of four float64 normals over 2, so that the gaps between floats do not tell the sum under the
        noise (Holohan and Braghin 2021, section 4).
        """
        if self.generator is not None:
            return torch.randn(shape, generator=self.generator)
        num = math.prod(shape)
        radius = torch.sqrt(-2 * torch.log1p(-self.uniform(4 * num)))
        four = (radius * torch.cos(2 * math.pi * self.uniform(4 * num))).reshape(4, num)
        return (four.sum(dim=0) / 2).to(torch.float32).reshape(shape)
