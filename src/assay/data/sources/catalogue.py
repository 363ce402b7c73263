"""Every data set that has a name, as plain data: nothing heavy is imported to list them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from assay.errors import Problem, UsageError

if TYPE_CHECKING:
    from assay.data.sources.source import Source
    from assay.values import Data, Progress


@dataclass(frozen=True)
class Entry:
    """One data set. `loader` is "module:function"; `megabytes` is the download, 0 when nothing is fetched.

    `option` is what may follow the name after a colon, and `choices` its values, the first being the default.
    """

    name: str
    loader: str
    modality: str
    rows: int
    licence: str
    megabytes: float
    about: str
    option: str = ""
    choices: tuple[str, ...] = ()

    @property
    def is_fetched(self) -> bool:
        """Whether it comes from a package registry, on request."""
        return self.megabytes > 0


_HERE = "assay.data.sources"
_DOMAINS = ("all", "movie", "tweets", "products", "editorials")
_ENTRIES = (
    Entry(
        "adult",
        "assay.data.adult:load_adult",
        "table",
        48_842,
        "CC-BY-4.0",
        0,
        "people of the 1994 US census; is income above 50,000 dollars? groups: sex, race",
    ),
    Entry(
        "diabetes",
        "assay.data.sklearn_sets:load_diabetes",
        "table",
        442,
        "not stated",
        0,
        "patients; disease progression after a year (numeric); group: sex; needs the sklearn extra",
    ),
    Entry(
        "wine",
        "assay.data.sklearn_sets:load_wine",
        "table",
        178,
        "CC-BY-4.0",
        0,
        "wines of three growers; no groups; needs the sklearn extra",
    ),
    Entry(
        "yeast",
        f"{_HERE}.yeast:load_yeast",
        "table",
        2_417,
        "not stated",
        4.9,
        "genes and their functions: any of 14 labels may apply; no groups",
    ),
    Entry(
        "fashion_mnist",
        f"{_HERE}.fashion_mnist:load_fashion_mnist",
        "image",
        70_000,
        "MIT",
        30.9,
        "grey 28×28 pictures of clothes, 10 classes; no groups",
    ),
    Entry(
        "mnist",
        f"{_HERE}.mnist:load_mnist",
        "image",
        70_000,
        "CC-BY-SA-3.0",
        20.3,
        "grey 28×28 handwritten digits, 10 classes; no groups",
    ),
    Entry(
        "coloured_fashion_mnist",
        f"{_HERE}.coloured_fashion_mnist:load_coloured_fashion_mnist",
        "image",
        70_000,
        "MIT",
        30.9,
        "the same in colours that give the class away in training only; groups: colour, own_colour",
    ),
    Entry(
        "emoji",
        f"{_HERE}.emoji:load_emoji",
        "image",
        3_781,
        "CC-BY-4.0",
        61.7,
        "colour 32×32 emoji, 9 categories; group: skin_tone, with pairs that differ in it alone; images extra",
    ),
    Entry(
        "sentiment",
        f"{_HERE}.sentiment:load_sentiment",
        "text",
        19_410,
        "MIT",
        2.5,
        "English snippets, negative or positive by twenty raters each; group: domain",
        "domain",
        _DOMAINS,
    ),
    Entry(
        "chinese_reviews",
        f"{_HERE}.chinese_reviews:load_chinese_reviews",
        "text",
        17_363,
        "MIT",
        37.6,
        "Chinese reviews of books, hotels and goods, negative or positive; no groups",
    ),
    Entry(
        "reuters_r8",
        f"{_HERE}.reuters_r8:load_reuters_r8",
        "text",
        7_580,
        "research use",
        38.1,
        "English newswire of 1987, 8 topics; no groups",
    ),
    Entry(
        "newsgroups",
        f"{_HERE}.newsgroups:load_newsgroups",
        "text",
        18_729,
        "not stated",
        38.1,
        "English posts of 1993, 20 newsgroups; no groups",
    ),
    Entry(
        "spam",
        f"{_HERE}.spam:load_spam",
        "text",
        5_783,
        "Apache-2.0",
        19.9,
        "English mail of 2002, spam or not; group: form (plain or html)",
    ),
    Entry(
        "compas",
        f"{_HERE}.compas:load_compas",
        "table",
        6_172,
        "not stated",
        28.2,
        "people screened in Florida; charged again within two years? groups: sex, race",
    ),
    Entry(
        "german_credit",
        f"{_HERE}.german_credit:load_german_credit",
        "table",
        1_000,
        "CC-BY-4.0",
        28.2,
        "loans of the 1970s; a good risk? groups: sex, age_group",
    ),
    Entry(
        "credit_default",
        f"{_HERE}.credit_default:load_credit_default",
        "table",
        30_000,
        "CC-BY-4.0",
        38.0,
        "card holders in Taiwan; default next month? groups: sex, marriage, age_group",
    ),
    Entry(
        "census_kdd",
        f"{_HERE}.census_kdd:load_census_kdd",
        "table",
        299_285,
        "CC-BY-4.0",
        9.0,
        "people of the US surveys of 1994 and 1995; is income above 50,000 dollars? groups: sex, race, hispanic_origin",
    ),
)
CATALOGUE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find(name: str) -> tuple[Entry, dict[str, Any]]:
    """The entry of `name` or `name:choice`, and the loader's options. Raises UsageError for one that is not there.

    >>> find("sentiment:movie")[1]
    {'domain': 'movie'}
    """
    base, colon, choice = name.partition(":")
    entry = CATALOGUE.get(base)
    if entry is None:
        raise UsageError(Problem(f"{name!r} is no data set with a name", ", ".join(CATALOGUE)))
    if not colon:
        return entry, {}
    if choice not in entry.choices:
        allowed = ", ".join(f"{base}:{one}" for one in entry.choices) or f"{base} alone"
        raise UsageError(Problem(f"{base} has no {choice!r}", allowed))
    return entry, {entry.option: choice}


def is_named(name: str) -> bool:
    """Whether a name is in the catalogue, with or without an option."""
    return name.partition(":")[0] in CATALOGUE


def open_named(name: str, *, fetch: bool = False, progress: Progress | None = None) -> Data:
    """The data set of a catalogue name, with its default split. `fetch=True` may use the network.

    Raises UsageError for an unknown name, DataError when it was not fetched, or its files are damaged.
    """
    entry, options = find(name)
    if entry.is_fetched:
        options |= {"fetch": fetch} | ({} if progress is None else {"progress": progress})
    module, _, function = entry.loader.partition(":")
    data: Data = getattr(importlib.import_module(module), function)(**options)
    return data


def sources_of(name: str) -> tuple[Source, ...]:
    """The packages a data set is made from; none for one that is not fetched. Raises UsageError."""
    entry, _ = find(name)
    if not entry.is_fetched:
        return ()
    module = importlib.import_module(entry.loader.partition(":")[0])
    source: Source = module.SOURCE
    return (source,)
