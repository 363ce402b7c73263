"""Personal data in text, by pattern and checksum. What is found is never reported, only where and how often."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

_CARD_LENGTHS = {"4": (13, 16, 19), "2": (16,), "5": (16,), "6": (16, 19), "3": (14, 15, 16)}
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 "
    "RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
)
IBAN_LENGTH = {one[:2]: int(one[2:]) for one in _IBAN_LENGTHS.split()}
_FILE_ENDINGS = frozenset(
    {"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html", "json", "txt"}
)  # logo@2x.png


@dataclass(frozen=True)
class Pattern:
    """One kind of personal data: a shape, and what else must hold of its characters."""

    kind: str
    shape: re.Pattern[str]
    holds: Callable[[str], bool]
    hint: str = ""  # a text without this has none


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1, annex B).

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    doubled = (int(one) * (1 + place % 2) for place, one in enumerate(reversed(digits)))
    return sum(number // 10 + number % 10 for number in doubled) % 10 == 0


def _card(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return len(digits) in _CARD_LENGTHS.get(digits[:1], ()) and len(set(digits)) > 1 and luhn(digits)


def _iban(text: str) -> bool:
    """ISO 13616: the country's length, and remainder 1 modulo 97 with letters as numbers from 10 on."""
    compact = text.replace(" ", "").upper()
    if len(compact) != IBAN_LENGTH.get(compact[:2]):
        return False
    return int("".join(str(int(one, 36)) for one in compact[4:] + compact[:4])) % 97 == 1


def _chinese_id(text: str) -> bool:
    """GB 11643-1999: a real date of birth, and the check character of ISO 7064 modulo 11-2."""
    year, month, day = int(text[6:10]), int(text[10:12]), int(text[12:14])
    try:
        born = date(year, month, day)
    except ValueError:
        return False
    total = sum(int(one) * (2 ** (17 - place) % 11) for place, one in enumerate(text[:17]))
    return born.year >= 1900 and text[0] in "12345678" and "10X98765432"[total % 11] == text[17].upper()


def _address(text: str) -> bool:
    """An address that could be a machine's on a network: every part at most 255, not 0.x, not a mask."""
    parts = text.split(".")
    return all(int(one) <= 255 and (one == "0" or one[0] != "0") for one in parts) and parts[0] not in ("0", "255")


def _email(text: str) -> bool:
    return ".." not in text and ".@" not in text and text.rsplit(".", 1)[1].lower() not in _FILE_ENDINGS


def _phone(text: str) -> bool:
    digits = re.sub(r"\D", "", text)
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def _any(text: str) -> bool:
    return bool(text)


# Earlier kinds win where two would match the same characters. Every repetition is bounded: no text takes long.
PATTERNS = (
    Pattern(
        "email",
        re.compile(
            r"(?<![\w.+%-])[A-Za-z0-9_][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}"
            r"[A-Za-z]{2,24}(?![\w-])",
            re.ASCII,
        ),
        _email,
        "@",
    ),
    Pattern(
        "iban",
        re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])"),
        _iban,
    ),
    Pattern("chinese id", re.compile(r"(?<![0-9A-Za-z])[1-8]\d{16}[\dXx](?![0-9A-Za-z])", re.ASCII), _chinese_id),
    Pattern("card", re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\d-]|\.\d)", re.ASCII), _card),
    Pattern(
        "chinese mobile",
        re.compile(r"(?<![\w.-])(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![\d-]|\.\d)", re.ASCII),
        _any,
        "1",
    ),
    Pattern(
        "ip address",
        re.compile(r"(?<![\w.])(?<!version )(?<!Version )(?<!release )\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)", re.ASCII),
        _address,
        ".",
    ),
    Pattern(
        "phone",
        re.compile(
            r"(?<![\w.+])\+[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d){6,12}(?![\d-])"
            r"|(?<![\w.+($€£¥￥#-])\(\d{3}\) ?\d{3}[ .-]\d{4}(?![\w-])"
            r"|(?<![\w.+($€£¥￥#-])(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4}(?![\w-]|\.\d)",
            re.ASCII,
        ),
        _phone,
    ),
)
KINDS = tuple(pattern.kind for pattern in PATTERNS)
PLACEHOLDERS = {kind: f"<{kind.upper().replace(' ', '_')}>" for kind in KINDS}
_HAS_DIGITS = re.compile(r"\d{3}", re.ASCII)


def find(text: str) -> list[tuple[str, int, int]]:
    """Kind, start and end of each piece of personal data, in order of place; none overlap.

    Kinds: e-mail address, IBAN (length of the country, remainder modulo 97), Chinese identity card (date, check
    character), payment card (length of the issuer, Luhn), Chinese mobile, IPv4 address, phone (international, or
    North American). Limits: names, addresses of houses and anything spelt out are not found; a made-up number that
    passes its checksum (1 in 10 for cards, 1 in 97 for IBANs) is; national phone numbers elsewhere are not.

    >>> find("Write to ann@example.org or call +44 20 7946 0958.")
    [('email', 9, 24), ('phone', 33, 49)]
    """
    found: list[tuple[str, int, int]] = []
    if "@" not in text and not _HAS_DIGITS.search(text) and text.count(".") < 3:
        return found
    for pattern in PATTERNS:
        if pattern.hint in text:
            found += [one for one in _matches(pattern, text) if not _overlaps(one, found)]
    return sorted(found, key=lambda one: one[1])


def _matches(pattern: Pattern, text: str) -> Iterator[tuple[str, int, int]]:
    for match in pattern.shape.finditer(text):
        if pattern.holds(match.group()):
            yield (pattern.kind, match.start(), match.end())


def _overlaps(one: tuple[str, int, int], others: Sequence[tuple[str, int, int]]) -> bool:
    return any(one[1] < end and start < one[2] for _, start, end in others)


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with each piece replaced by its kind in brackets, and how many of each kind were replaced.

    >>> redact("Mail ann@example.org")
    ('Mail <EMAIL>', {'email': 1})
    """
    counts: dict[str, int] = {}
    parts, at = [], 0
    for kind, start, end in find(text):
        counts[kind] = counts.get(kind, 0) + 1
        parts += [text[at:start], PLACEHOLDERS[kind]]
        at = end
    return "".join([*parts, text[at:]]), counts
