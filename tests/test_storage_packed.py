"""Arrays in pieces: the bytes of the safetensors library, read and written without copies."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import SafetensorError
from safetensors.numpy import load, save

from assay.storage.cache import Cache
from assay.storage.packed import pack, unpack

KINDS = ["u1", "i1", "b1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
ARRAYS = st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(np.dtype(kind), SHAPES))


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), ARRAYS, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_bytes_are_those_of_the_library_and_come_back(named):
    named.pop("__metadata__", None)
    whole = b"".join(pack(named))
    assert whole == save({name: np.ascontiguousarray(array) for name, array in named.items()})
    for found in (unpack(bytearray(whole)), load(whole)):
        assert set(found) == set(named)
        for name, array in named.items():
            assert found[name].dtype == array.dtype
            assert found[name].tobytes() == array.tobytes()
            assert found[name].shape == array.shape


def test_other_layouts_are_stored_as_the_numbers_they_hold():
    wide = np.arange(12, dtype=">i4").reshape(3, 4)
    found = unpack(bytearray(b"".join(pack({"t": wide.T, "r": wide[::-1], "o": np.array(3.5)}))))
    assert np.array_equal(found["t"], wide.T)
    assert np.array_equal(found["r"], wide[::-1])
    assert found["o"].shape == ()
    with pytest.raises(SafetensorError, match="cannot be stored"):
        pack({"c": np.ones(2, dtype=np.complex64)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"nope",
        b"".join(pack({"a": np.arange(4)}))[:-1],
        b"".join(pack({"a": np.arange(4)})).replace(b"I64", b"I65"),
        b"".join(pack({"a": np.arange(4)})).replace(b"[4]", b"[5]"),
    ],
)
def test_anything_else_is_refused(content):
    with pytest.raises(SafetensorError):
        unpack(bytearray(content))


def test_the_cache_makes_no_second_copy(tmp_path):
    """Of 16 MiB: writing makes none, reading one. A view can be written to, as an array of a pass could be."""
    cache, big = Cache(tmp_path), {"a": np.arange(1 << 22, dtype=np.float32), "b": np.ones(3)}
    tracemalloc.start()
    cache.put(["key"], big, {"seconds": 1.5})
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    found = cache.get(["key"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert peak < 17 << 20
    assert found[1] == {"seconds": 1.5}
    assert all(np.array_equal(found[0][name], array) for name, array in big.items())
    assert found[0]["a"].flags.writeable
    path = next(path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert cache.get(["key"]) is None
