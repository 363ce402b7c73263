"""Pictures of one figure on a dark ground, set upright by their own moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STEEPEST = 1.0  # pixels to the side for each line: a figure never leans by more than 45 degrees
SPREAD = 1 / 12  # variance of a line within its pixel: a figure of one line has no slant to speak of


class Deskew(nn.Module):
    r"""Each picture moved to its centre and sheared until its lines no longer lean: `(N, C, H, W)` to the same shape.

    With pixels (summed over channels) as weights at $(y, x)$, centre $(\bar y, \bar x)$, second moments $\mu$ and slant
    $a = \mu_{yx} / (\mu_{yy} + 1/12)$, held within $\pm 1$, the answer at $(y, x)$ is the picture at
    $(y - m_y + \bar y,\ x - m_x + \bar x + a (y - m_y))$, $m$ the middle; between pixels it is bilinear, outside 0.
    Depends on no other row and on no parameter, so nothing of training data enters it. Differentiable, but for
    the kinks of bilinear reading. Limits: for figures on a ground of 0, such as digits and characters; a photograph
    or a piece of clothing has no slant to take away, and on a bright ground the moments are those of the ground. An
    empty picture stays empty; negative pixels weigh nothing.

    Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section III.

    >>> leaning = torch.zeros(1, 1, 9, 9)
    >>> leaning[0, 0, [2, 3, 4, 5, 6], [6, 5, 4, 3, 2]] = 1.0
    >>> Deskew()(leaning)[0, 0].sum(dim=0).argmax().item()
    4
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """`(N, C, H, W)` float to the same shape."""
        height, width = pixels.shape[-2:]
        weights = pixels.sum(dim=1).clamp_min(0)
        down = torch.arange(height, dtype=pixels.dtype, device=pixels.device)
        across = torch.arange(width, dtype=pixels.dtype, device=pixels.device)
        shares = weights / weights.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        centre_y = (shares.sum(dim=2) * down).sum(dim=1)[:, None, None]
        centre_x = (shares.sum(dim=1) * across).sum(dim=1)[:, None, None]
        from_y, from_x = down[:, None] - centre_y, across - centre_x  # (N, H, 1), (N, 1, W)
        tall = (shares * from_y.square()).sum(dim=(1, 2))
        slant = ((shares * from_y * from_x).sum(dim=(1, 2)) / (tall + SPREAD)).clamp(-STEEPEST, STEEPEST)
        line = down[:, None] - (height - 1) / 2
        y = line + centre_y
        x = across - (width - 1) / 2 + centre_x + slant[:, None, None] * line
        # grid_sample counts from -1 to 1, edge to edge.
        places = torch.stack([(2 * x + 1) / width - 1, ((2 * y + 1) / height - 1).expand_as(x)], dim=3)
        found: Tensor = functional.grid_sample(
            pixels, places, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        return found
