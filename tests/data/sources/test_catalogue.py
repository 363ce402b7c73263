import importlib
import subprocess
import sys

import pytest

from assay.data.sources import catalogue
from assay.data.sources.catalogue import CATALOGUE, find, is_named, open_named, sources_of
from assay.errors import UsageError

LIGHT = """
import sys
from assay.data.sources.catalogue import CATALOGUE
assert len(CATALOGUE) >= 16
heavy = {"numpy", "polars", "torch", "urllib.request"} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""


def test_listing_the_catalogue_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)
def test_every_entry_says_what_its_source_says(entry):
    module, _, function = entry.loader.partition(":")
    load = getattr(importlib.import_module(module), function)
    assert load.__name__ == f"load_{entry.name}"
    assert entry.modality in ("table", "image", "text")
    for source in sources_of(entry.name):
        assert round(source.package.num_bytes / 1e6, 1) == entry.megabytes
        assert len(source.package.sha256) == 64
        assert source.mirrors or source.without_mirror
        given = {name for mirror in source.mirrors for name, _ in mirror.gives}
        assert given == {one.name for one in source.kept} or source.without_mirror
        for pinned in (*source.kept, *source.mirrors):
            assert len(pinned.sha256) == 64
            assert pinned.num_bytes > 0
        for mirror in source.mirrors:
            assert mirror.url.startswith("https://")
        assert source.licence
        assert source.citation
        assert set(source.facts()) >= {"address", "package", "licence", "citation", "sha256", "files"}
    assert bool(sources_of(entry.name)) == entry.is_fetched


def test_names_with_options():
    assert find("sentiment:tweets")[1] == {"domain": "tweets"}
    assert find("sentiment")[1] == {}
    assert is_named("sentiment:anything")
    assert not is_named("data.csv")
    with pytest.raises(UsageError, match="sentiment:movie"):
        find("sentiment:books")
    with pytest.raises(UsageError, match="adult alone"):
        find("adult:x")
    with pytest.raises(UsageError, match="fashion_mnist, mnist"):
        find("cifar10")


def test_choices_are_those_of_the_loader():
    from assay.data.sources.sentiment import ALL, DOMAINS

    assert CATALOGUE["sentiment"].choices == (ALL, *DOMAINS)


def test_what_comes_with_assay_needs_no_fetching(monkeypatch):
    monkeypatch.setattr(catalogue, "sources_of", lambda name: pytest.fail("looked for a source"))
    assert open_named("adult").name == "adult"
