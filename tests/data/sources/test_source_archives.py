import gzip
import io
import tarfile

import pytest

from assay.data.sources import archives
from assay.data.sources.archives import extract, pack, unpack
from assay.errors import DataError
from source_kit import deb_of, sha, tar_of, zip_of

FILES = {"a/one.txt": b"1" * 100, "a/two.txt": b"", "b/three.txt": b"333"}


@pytest.mark.parametrize("make", [tar_of, zip_of, deb_of, lambda files: tar_of(files, compress="xz")])
def test_members_come_out_as_they_went_in(make):
    found = extract(make(FILES), ["!a/one.txt", "!a/two.txt", "!b/three.txt"])
    assert found == {"!" + name: content for name, content in FILES.items()}


def test_a_path_goes_through_archives_in_archives_and_gzip():
    inner = tar_of({"deep/x.txt": b"deep"})
    outer = zip_of({"in.tar.gz": inner, "y.gz": gzip.compress(b"why")})
    paths = ["!in.tar.gz!deep/x.txt", "!y.gz!", "!in.tar.gz", ""]
    assert extract(outer, paths) == dict(zip(paths, [b"deep", b"why", inner, outer], strict=True))


def test_a_star_takes_every_match_as_one_pack_whatever_the_order():
    one, other = extract(zip_of(FILES), ["!a/*.txt"]), extract(tar_of(dict(reversed(FILES.items()))), ["!a/*.txt"])
    assert one == other
    assert unpack(one["!a/*.txt"]) == {"one.txt": b"1" * 100, "two.txt": b""}
    assert unpack(pack({"ü": b"\n[", "": b""})) == {"ü": b"\n[", "": b""}


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "a/../../b", "..\\windows"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_a_member_outside_of_its_archive_is_refused(name, make):
    with pytest.raises(DataError, match="outside of itself"):
        extract(make({name: b"x", "fine.txt": b"y"}), ["!fine.txt"])


def test_links_and_devices_are_no_files():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"has no link\.txt"):
        extract(out.getvalue(), ["!link.txt"])


@pytest.mark.parametrize("make", [tar_of, zip_of, gzip.compress])
def test_an_archive_that_unpacks_to_too_much_is_stopped(make, monkeypatch):
    monkeypatch.setattr(archives, "MAX_UNPACKED", 20_000)
    zeros = bytes(100_000)
    raw, path = (make(zeros), "!") if make is gzip.compress else (make({"bomb": zeros}), "!bomb")
    with pytest.raises(DataError, match="20000"):
        extract(raw, [path])


def test_too_many_members_are_refused(monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(DataError, match="more than 2 members"):
        extract(zip_of(FILES), ["!b/three.txt"])


@pytest.mark.parametrize("make", [tar_of, zip_of, deb_of])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_truncated_archive_is_an_error_and_nothing_else(make, share):
    raw = make({"big.bin": sha(b"x").encode() * 500, "last.bin": b"end"})
    with pytest.raises(DataError):
        extract(raw[: int(len(raw) * share)], ["!last.bin"])


def test_every_missing_member_is_named():
    with pytest.raises(DataError, match=r"c\.txt, d/\*\.png"):
        extract(zip_of(FILES), ["!c.txt", "!d/*.png"])


def test_zip_that_lies_about_a_size_is_refused():
    raw = bytearray(zip_of({"a": b"x" * 50}))
    at = raw.rindex(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    raw[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(DataError):
        extract(bytes(raw), ["!a"])


def test_zstd_is_named_as_what_it_is():
    with pytest.raises(DataError, match="zstd"):
        extract(b"\x28\xb5\x2f\xfd rest", ["!a"])
