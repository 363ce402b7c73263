"""Quantised blocks of GGUF files back to numbers. Layouts: ggml's ggml-common.h; checked against its Python package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from assay.values import Array

# By type: bytes a block, numbers a block.
BLOCKS = {
    **{0: (4, 1), 1: (2, 1), 30: (2, 1)},  # F32, F16, BF16
    **{2: (18, 32), 3: (20, 32), 6: (22, 32), 7: (24, 32), 8: (34, 32)},  # Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
    **{12: (144, 256), 13: (176, 256), 14: (210, 256)},  # Q4_K, Q5_K, Q6_K
}


def dequantize(content: bytes, block: int) -> Array:
    """The numbers of whole blocks, flat, float32."""
    if block == 0:
        return np.frombuffer(content, dtype="<f4").astype(np.float32)
    if block == 1:
        return np.frombuffer(content, dtype="<f2").astype(np.float32)
    if block == 30:
        return (np.frombuffer(content, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    raw = np.frombuffer(content, dtype=np.uint8).reshape(-1, BLOCKS[block][0])
    return OPEN[block](raw).reshape(-1)


def _half(raw: Array) -> Array:
    """Two bytes a block `(B, 2)` as a number each `(B, 1)`."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _nibbles(raw: Array) -> Array:
    """Bytes `(B, S)` as their low halves, then their high halves, `(B, 2 S)`."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Array) -> Array:
    """Four bytes a block as 32 bits `(B, 32)`, each worth 16."""
    return np.unpackbits(np.ascontiguousarray(raw), axis=1, bitorder="little") << 4


def _q4_0(raw: Array) -> Array:
    return _half(raw[:, :2]) * (_nibbles(raw[:, 2:]).astype(np.float32) - 8)


def _q4_1(raw: Array) -> Array:
    return _half(raw[:, :2]) * _nibbles(raw[:, 4:]).astype(np.float32) + _half(raw[:, 2:4])


def _q5_0(raw: Array) -> Array:
    return _half(raw[:, :2]) * ((_nibbles(raw[:, 6:]) | _fifth_bits(raw[:, 2:6])).astype(np.float32) - 16)


def _q5_1(raw: Array) -> Array:
    values = (_nibbles(raw[:, 8:]) | _fifth_bits(raw[:, 4:8])).astype(np.float32)
    return _half(raw[:, :2]) * values + _half(raw[:, 2:4])


def _q8_0(raw: Array) -> Array:
    return _half(raw[:, :2]) * raw[:, 2:].view(np.int8).astype(np.float32)


def _scales(raw: Array) -> tuple[Array, Array]:
    """Twelve bytes a block as eight 6-bit scales and eight 6-bit minima, `(B, 8)` each."""
    low, middle, high = raw[:, 0:4], raw[:, 4:8], raw[:, 8:12]
    scale = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minimum = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _k_values(raw: Array, values: Array) -> Array:
    """Eight sub-blocks `(B, 8, 32)`, scaled and shifted as the first 16 bytes of their block say."""
    scale, minimum = _scales(raw[:, 4:16])
    scaled: Array = (_half(raw[:, :2]) * scale)[:, :, None] * values.astype(np.float32)
    shifted: Array = scaled - (_half(raw[:, 2:4]) * minimum)[:, :, None]
    return shifted


def _pairs(raw: Array) -> Array:
    """128 bytes as eight sub-blocks of 32: each 32 bytes hold two, in their low and their high halves."""
    quarters = raw.reshape(len(raw), 4, 1, 32)
    return np.concatenate([quarters & 15, quarters >> 4], axis=2).reshape(len(raw), 8, 32)


def _q4_k(raw: Array) -> Array:
    return _k_values(raw, _pairs(raw[:, 16:]))


def _q5_k(raw: Array) -> Array:
    bits: Array = (raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return _k_values(raw, _pairs(raw[:, 48:]) | (bits << 4))


def _q6_k(raw: Array) -> Array:
    low = raw[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = (raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]) & 3
    values = (low | (high << 4)).astype(np.float32) - 32
    scale = _half(raw[:, 208:]) * np.ascontiguousarray(raw[:, 192:208]).view(np.int8).astype(np.float32)
    scaled: Array = values.reshape(-1, 16, 16) * scale[:, :, None]
    return scaled


OPEN: dict[int, Callable[[Array], Array]] = {
    **{2: _q4_0, 3: _q4_1, 6: _q5_0, 7: _q5_1, 8: _q8_0},
    **{12: _q4_k, 13: _q5_k, 14: _q6_k},
}
