"""20 Newsgroups: posts of 1993, to be told apart by group."""

from __future__ import annotations

from assay.data.sources.orange_text import news_data, news_source
from assay.values import Data, Progress, quiet

SOURCE = news_source(
    "newsgroups",
    (
        ("20newsgroups-train.tab", "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c", 16_682_951),
        ("20newsgroups-test.tab", "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39", 10_808_779),
    ),
    citation="Lang 1995: NewsWeeder; Cardoso-Cachopo 2007: Improving methods for single-label text categorization",
    licence="public posts, no licence stated; the package is GPL-3.0",
)


def load_newsgroups(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """11,293 training and 7,528 test posts in twenty groups, with the published split, which is by date.

    Repeated texts are left out, and training texts that nearly equal a test text; counts are in `source["dropped"]`.
    Lower case, letters only, names and addresses of writers still in the text, as the source has it. No groups.
    Limits: what tells the classes apart is partly who wrote (signatures), not what about.
    Source: Lang 1995, as prepared by Cardoso-Cachopo 2007. Raises DataError when not fetched (then `fetch=True`).
    """
    limits = ["signatures and names of writers tell the classes apart", "twenty groups of 1993"]
    card: dict[str, object] = {"title": "20 Newsgroups (by date)", "limits": limits}
    return news_data(SOURCE, card, by=(validation, seed), fetch=fetch, progress=progress)
