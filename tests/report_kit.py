"""What tests of the report read on a page."""

from __future__ import annotations

import re


def section(tree, name):
    """A section of the page by its name."""
    return next(one for one in tree.all("section") if one.attributes["id"] == name)


def foreign_words(tree, known):
    """Runs of English words on a Chinese page, outside what is marked as English."""
    if tree.attributes.get("lang") == "en" or tree.tag in ("code", "style", "script"):
        return []
    parts = [tree.attributes.get("aria-label") or ""] + [one for one in tree.inside if isinstance(one, str)]
    found = []
    names = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    for part in (re.sub(names, "", one) for one in parts):
        found += re.findall(r"[A-Za-z]{3,}(?:[ -][A-Za-z]{2,})+", part)
    return found + [text for one in tree.inside if not isinstance(one, str) for text in foreign_words(one, known)]
