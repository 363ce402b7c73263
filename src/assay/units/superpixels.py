"""Superpixels: connected pieces of a picture that follow its edges, and larger regions that they make up."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from assay.values import Array

NUM = 100  # asked of a picture that has the pixels for it; fewer come where small pieces are given to a neighbour
PIXELS = 4  # of a superpixel at least, on average
COMPACTNESS = 20.0  # how much a step of one superpixel's width weighs, in units of lightness (0 to 100)
ROUNDS = 10
REGIONS = 16
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))  # D65
Pairs = tuple[Array, Array]  # places of neighbours


def superpixels(picture: Array, *, num: int = NUM, highest: float = 255.0) -> Array:
    """Which superpixel each pixel of `picture (C, H, W)` belongs to, `(H, W)` from 0: about `num`, each connected.

    Definition: k-means of lightness and colour (CIELAB of three channels, else 100 times the channels) and position,
    in which a pixel goes to one of the nine centres around it that has the least |colour|^2 + (20 |place| / s)^2, s the
    width of a superpixel; then pieces that are not connected come apart, and those below s^2 / 4 join the neighbour
    of the nearest colour. Pixels lie in 0 to `highest`. Deterministic; asked are at most H W / 4, and at most 5/4 of
    what was asked come back.
    Limits: edges of colour, not of things; where colours change fast fewer come back than were asked.
    Source: Achanta et al. 2012, "SLIC superpixels", section 3; centres by cell as in Ren, Prisacariu and Reid 2015.

    >>> picture = np.zeros((1, 8, 8))
    >>> picture[:, 2:6, 3:7] = 255
    >>> found = superpixels(picture, num=4)
    >>> bool(np.isin(found[2:6, 3:7], found[:2]).any())
    False
    """
    _, height, width = picture.shape
    colour = _colours(picture, highest)
    num = max(1, min(num, height * width // PIXELS))
    down = min(height, max(1, round((num * height / width) ** 0.5)))
    across = min(width, max(1, round(num / down)))
    step = (height * width / (down * across)) ** 0.5
    vertical, horizontal = np.mgrid[:height, :width]
    place = COMPACTNESS / step * np.stack([vertical, horizontal], axis=2)
    points = np.concatenate([colour, place], axis=2).reshape(height * width, -1)
    cell = vertical * down // height, horizontal * across // width
    around = [
        np.clip(cell[0] + i, 0, down - 1) * across + np.clip(cell[1] + j, 0, across - 1)
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    candidates = np.stack(around, axis=2).reshape(height * width, -1)
    owner, centres = candidates[:, 4], np.zeros((down * across, points.shape[1]))
    for _ in range(ROUNDS):
        sizes = np.bincount(owner, minlength=len(centres))
        sums = np.stack([np.bincount(owner, one, minlength=len(centres)) for one in points.T], axis=1)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        apart = sum((points[:, None, axis] - centres[candidates, axis]) ** 2 for axis in range(points.shape[1]))
        moved = candidates[np.arange(len(candidates)), np.argmin(apart, axis=1)]
        if (moved == owner).all():
            break
        owner = moved
    return _connected(owner.reshape(height, width), colour, least=step**2 / 4, most=num + num // 4)


def regions(labels: Array, picture: Array, *, num: int = REGIONS, highest: float = 255.0) -> Array:
    """Which region each of S superpixels `labels (H, W)` belongs to, `(S,)` from 0: at most `num`, each connected.

    The two neighbours that lose least of the squared colour and place (Ward 1963) are joined, again and again.
    """
    colour = _colours(picture, highest)
    step = (labels.size / (labels.max() + 1)) ** 0.5
    place = np.moveaxis(np.indices(labels.shape), 0, 2) / step
    means, sizes = _means(labels, np.concatenate([colour, place], axis=2))
    is_near = np.zeros((len(sizes), len(sizes)), dtype=bool)
    pairs = _neighbours(labels)
    is_near[pairs] = is_near[pairs[::-1]] = True
    found, loss = np.arange(len(sizes)), np.full(is_near.shape, np.inf)

    def lost(one: int) -> Array:
        weight = sizes[one] * sizes / np.maximum(sizes[one] + sizes, 1)
        return np.where(is_near[one], weight * ((means[one] - means) ** 2).sum(axis=1), np.inf)

    for at in range(len(sizes)):
        loss[at] = lost(at)
    for _ in range(len(sizes) - num):
        one, other = sorted(divmod(int(loss.argmin()), len(sizes)))
        means[one] = (sizes[one] * means[one] + sizes[other] * means[other]) / (sizes[one] + sizes[other])
        sizes[one], sizes[other] = sizes[one] + sizes[other], 0
        is_near[one] |= is_near[other]
        is_near[one, [one, other]] = False
        is_near[:, one] = is_near[one]
        is_near[other] = is_near[:, other] = False
        loss[other] = loss[:, other] = np.inf
        loss[one] = loss[:, one] = lost(one)
        found[found == other] = one
    return np.unique(found, return_inverse=True)[1]


def _colours(picture: Array, highest: float) -> Array:
    """`(H, W, C)` on a scale where lightness goes from 0 to 100: CIELAB of three channels (Achanta, section 3)."""
    share = np.nan_to_num(picture.astype(np.float64) / highest).clip(0, 1).transpose(1, 2, 0)
    if share.shape[2] != 3:
        return share * 100
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    white = np.array(_TO_XYZ).sum(axis=1)
    xyz = linear @ np.array(_TO_XYZ).T / white
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), 2, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=2)


def _neighbours(labels: Array) -> Pairs:
    """Pairs of different labels that share an edge of a pixel."""
    one = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    other = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    return one[one != other], other[one != other]


def _means(labels: Array, values: Array) -> tuple[Array, Array]:
    """Mean `(S, D)` of `values (H, W, D)` over each label, and its pixels `(S,)`."""
    flat, sizes = labels.ravel(), np.bincount(labels.ravel())
    sums = np.stack([np.bincount(flat, one.ravel()) for one in np.moveaxis(values, 2, 0)], axis=1)
    return sums / sizes[:, None], sizes.astype(np.float64)


def _connected(owner: Array, colour: Array, *, least: float, most: int) -> Array:
    """Labels `(H, W)` of connected pieces, small ones joined to the neighbour of the nearest colour until none is."""
    pixel = np.arange(owner.size).reshape(owner.shape)
    one = np.concatenate([pixel[:, :-1].ravel(), pixel[:-1].ravel()])
    other = np.concatenate([pixel[:, 1:].ravel(), pixel[1:].ravel()])
    alike = owner.ravel()[one] == owner.ravel()[other]
    labels = _joined((one[alike], other[alike]), owner.size).reshape(owner.shape)
    while True:
        means, sizes = _means(labels, colour)
        if (sizes >= least).all() and len(sizes) > most:
            least = float(np.sort(sizes)[len(sizes) - most]) + 1
        pairs = _neighbours(labels)
        here, there = np.concatenate(pairs), np.concatenate(pairs[::-1])
        is_small = sizes[here] < least
        here, there = here[is_small], there[is_small]
        if not len(here):
            return labels
        # Each small piece points to one neighbour, so that no two large ones are joined by way of it.
        order = np.lexsort((there, ((means[here] - means[there]) ** 2).sum(axis=1), here))
        first = order[np.unique(here[order], return_index=True)[1]]
        labels = _joined((here[first], there[first]), len(sizes))[labels]


def _joined(pairs: Pairs, size: int) -> Array:
    found: Array = connected_components(coo_matrix((np.ones(len(pairs[0])), pairs), shape=(size, size)), False)[1]
    return found
