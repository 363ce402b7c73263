"""Real dossiers of small systems, filed once for all tests of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from assay import story
from assay.models import Architecture
from assay.observe import Workspace
from assay.report import LANGUAGES, write_report
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Column, Data, Groups, Split
from support import COLUMNS, make_split, small_images, small_texts


@dataclass(frozen=True)
class Filed:
    """Folders of filed dossiers."""

    compared: Path
    classes: Path
    regression: Path

    def __iter__(self) -> Iterator[Path]:
        return iter((self.compared, self.classes, self.regression))


def small(name: str, remake, *, classes: tuple[str, ...], groups: tuple[Column, ...] | None = None) -> Data:
    """The usual small table, with other labels or groups."""
    splits = {"train": make_split(400, 1, 1), "validation": make_split(80, 2, 401), "test": make_split(300, 3, 501)}
    made = {key: remake(split) for key, split in splits.items()}
    columns = made["test"].groups.columns if groups is None else groups
    return Data(name, COLUMNS, "label", columns, made, classes, "yes" if len(classes) == 2 else None)


def three_classes(split: Split) -> Split:
    cuts = np.digitize(split.inputs[:, 0] + split.inputs[:, 1], [80, 120])
    return replace(split, labels=cuts.astype(np.int64), groups=one_column(split))


def one_column(split: Split) -> Groups:
    """The first sensitive column alone: each more is a row of charts, and the first dossier has two."""
    return Groups(split.groups.codes[:, :1], split.groups.columns[:1])


def targets(split: Split) -> Split:
    """A target and no groups."""
    noise = np.random.default_rng(5).normal(0, 3, len(split))
    nobody = Groups(np.empty((len(split), 0), dtype=np.int16), ())
    return replace(split, labels=(split.inputs[:, 0] * 0.5 + noise).astype(np.float32), groups=nobody)


def targets_of_groups(split: Split) -> Split:
    return replace(targets(split), groups=one_column(split))


def trained(data: Data, name: str):
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [6]}), task_of(data), TrainSettings(epochs=2))
    return train_system(data, name=name, recipe=recipe)


@pytest.fixture(scope="session")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Filed:
    """Every registered probe that is defined for tables has run on at least one of these three."""
    folder = tmp_path_factory.mktemp("report")
    workspace = Workspace(folder=folder / "cache", key=b"owner", num_draws=40, num_references=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        data = small("small", lambda split: split, classes=("no", "yes"))
        compared = story.compare_treatments(trained(data, "base"), ["quantize_int8"], workspace=workspace)
        story.file(compared.judged[0], folder / "compared", tables={"matrix": story.matrix_facts(compared)})
        for name, remake, classes in (
            ("classes", three_classes, ("low", "middle", "high")),
            ("regression", targets_of_groups, ()),
        ):
            system = trained(small(name, remake, classes=classes), name)
            story.file(story.audit(system, probes=["all"], workspace=workspace), folder / name)
    return Filed(folder / "compared", folder / "classes", folder / "regression")


@pytest.fixture(scope="session")
def filed_media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dossier of pictures, of English texts and of Chinese texts, deep probes too: only slow tests ask for them."""
    folder = tmp_path_factory.mktemp("media")
    workspace = Workspace(folder=folder / "cache", key=b"owner", num_draws=40, num_references=2)
    reads = {"dim": 8, "num_hidden": 8, "vocab_size": 60}
    systems = {
        "image": (small_images(500), Architecture("cnn_lenet", {"widths": [3, 4], "hidden": [8]})),
        "english": (small_texts(700), Architecture("gru", reads)),
        "chinese": (small_texts(700, language="zh"), Architecture("gru", reads)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        for name, (data, architecture) in systems.items():
            settings = TrainSettings(epochs=5, batch_size=32, learning_rate=1e-2)
            system = train_system(data, name=name, recipe=TrainRecipe(architecture, task_of(data), settings))
            story.file(story.audit(system, probes=["all"], workspace=workspace), folder / name)
    return {name: folder / name for name in systems}


@dataclass
class Node:
    """An element of a page: tag, attributes, and text and elements in order."""

    tag: str
    attributes: dict[str, str | None]
    inside: list[Node | str]

    def all(self, *tags: str) -> list[Node]:
        """Elements below this one, in the order of the page; of these tags, or every one."""
        found: list[Node] = []
        for one in self.inside:
            if isinstance(one, Node):
                found += [one] if not tags or one.tag in tags else []
                found += one.all(*tags)
        return found

    def text(self, skip: tuple[str, ...] = ()) -> str:
        """What a reader reads, without elements of the tags to skip."""
        parts = [one if isinstance(one, str) else one.text(skip) for one in self.inside]
        return "" if self.tag in skip else " ".join(" ".join(parts).split())


class Reader(HTMLParser):
    """Pages into trees; fails on tags that are not closed in order."""

    EMPTY = frozenset({"meta", "link", "br", "wbr"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Node("page", {}, [])]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, dict(attrs), [])
        self.open[-1].inside.append(node)
        if tag not in self.EMPTY:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].inside.append(Node(tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].inside.append(data)


@pytest.fixture(scope="session")
def parse():
    def parsed(html: str) -> Node:
        reader = Reader()
        reader.feed(html)
        assert [one.tag for one in reader.open] == ["page"]
        return reader.open[0]

    return parsed


@pytest.fixture(scope="session")
def pages(filed: Filed, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """By (name, language): each report in English, and that of the comparison in Chinese. Drawing is what costs."""
    place = tmp_path_factory.mktemp("pages")
    return written(filed, place, ["en"]) | written([filed.compared], place, ["zh"])


@pytest.fixture(scope="session")
def every_page(pages: dict[tuple[str, str], str], filed: Filed, tmp_path_factory: pytest.TempPathFactory):
    """The report of each dossier in each language; for slow tests."""
    return pages | written([filed.classes, filed.regression], tmp_path_factory.mktemp("pages"), ["zh"])


@pytest.fixture(scope="session")
def media_pages(filed_media: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """The report of pictures and of texts in each language, by (name, language)."""
    return written(filed_media.values(), tmp_path_factory.mktemp("media_pages"))


def written(folders: Iterable[Path], place: Path, languages: Iterable[str] = LANGUAGES) -> dict[tuple[str, str], str]:
    return {
        (one.name, lang): write_report(one, out=place / f"{one.name}.{lang}.html", lang=lang).read_text("utf-8")
        for one in folders
        for lang in languages
    }
