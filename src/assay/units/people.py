"""Words for people in texts as they were written, and the words that take their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from assay.values import Array, texts

AXES = ("gender", "origin", "belief")
# First names that Bertrand and Mullainathan (2004), table 8, drew from birth records.
FIRST_NAMES = (
    ("Emily", "Lakisha"),
    ("Allison", "Tamika"),
    ("Carrie", "Ebony"),
    ("Kristen", "Keisha"),
    ("Laurie", "Aisha"),
    ("Meredith", "Latoya"),
    ("Greg", "Jamal"),
    ("Brad", "Tyrone"),
    ("Brendan", "Darnell"),
    ("Geoffrey", "Rasheed"),
    ("Todd", "Leroy"),
    ("Neil", "Kareem"),
)
_ENGLISH = (
    "he she, himself herself, man woman, men women, boy girl, boys girls, father mother, fathers mothers, dad mom, "
    "daddy mommy, son daughter, sons daughters, brother sister, brothers sisters, husband wife, husbands wives, "
    "uncle aunt, nephew niece, grandfather grandmother, grandson granddaughter, boyfriend girlfriend, "
    "gentleman lady, gentlemen ladies, king queen, kings queens, prince princess, actor actress, actors actresses, "
    "waiter waitress, hero heroine, heroes heroines, male female, males females, mr mrs, sir madam, "
    "guy gal, guys gals, businessman businesswoman, policeman policewoman, spokesman spokeswoman, cowboy cowgirl, "
    "widower widow, "
    "james mary, john patricia, robert jennifer, michael linda, william elizabeth, david barbara, richard susan, "
    "joseph jessica, charles karen, steven lisa, paul nancy, mark sandra, george ashley, kevin emily, brian michelle"
)
_ENGLISH_BELIEF = (
    "christian muslim, christians muslims, christianity islam, church mosque, churches mosques, bible quran"
)
_CHINESE = "他 她, 男人 女人, 男孩 女孩, 男生 女生, 男士 女士, 爸爸 妈妈, 父亲 母亲, 哥哥 姐姐, 弟弟 妹妹, 儿子 女儿, "
_CHINESE += "丈夫 妻子, 老公 老婆, 叔叔 阿姨, 爷爷 奶奶, 外公 外婆, 先生 小姐, 男友 女友, 男朋友 女朋友, 男性 女性"
_CHINESE_ORIGIN = "城里 乡下, 城市 农村, 城里人 乡下人"
_CHINESE_BELIEF = "佛教 伊斯兰教, 寺庙 清真寺"
_NOT_HE = r"(?<![其吉])他(?![山乡日])"  # 其他 is "other", 吉他 a guitar, 他乡 a foreign place


@cache
def terms(language: str, axis: str) -> Mapping[str, str]:
    """Each word to the one that takes its place, both ways, in lower case; empty for a language without a list.

    >>> terms("en", "gender")["brother"], terms("zh", "gender")["她"]
    ('sister', '他')
    """
    listed = {
        ("en", "gender"): _ENGLISH,
        ("en", "belief"): _ENGLISH_BELIEF,
        ("zh", "gender"): _CHINESE,
        ("zh", "origin"): _CHINESE_ORIGIN,
        ("zh", "belief"): _CHINESE_BELIEF,
    }.get((language, axis), "")
    pairs = [tuple(one.split()) for one in listed.split(", ") if one]
    if (language, axis) == ("en", "origin"):
        pairs = [(a.lower(), b.lower()) for a, b in FIRST_NAMES]
    both: dict[str, str] = {}
    for first, second in pairs:
        both.setdefault(first, second)
        both.setdefault(second, first)
    if (language, axis) == ("en", "gender"):
        both |= {"him": "her", "his": "her", "her": "his", "hers": "his", "ms": "mr"}
    return both


@cache
def _pattern(language: str, axis: str) -> re.Pattern[str]:
    words = sorted(terms(language, axis), key=len, reverse=True)
    if language == "zh":
        return re.compile("|".join(_NOT_HE if word == "他" else re.escape(word) for word in words))
    return re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)


def swapped_text(text: str, language: str, axis: str) -> str:
    """A text with every word of the axis replaced by its counterpart, case kept.

    "her" is "his" before a word and "him" elsewhere.

    >>> swapped_text("He gave HER book to his sister. She met her.", "en", "gender")
    'She gave HIS book to her brother. He met him.'
    >>> swapped_text("他和其他人", "zh", "gender")
    '她和其他人'
    """
    known = terms(language, axis)
    if not known:
        return text

    def other(found: re.Match[str]) -> str:
        word = found[0]
        told = known[word.lower()]
        if word.lower() == "her" and not re.match(r"\s+[A-Za-z]", text[found.end() :]):
            told = "him"
        return told.upper() if word.isupper() and len(word) > 1 else told.capitalize() if word[0].isupper() else told

    return _pattern(language, axis).sub(other, text)


def swapped_texts(rows: Array, language: str, axis: str) -> Array:
    """Texts `(M,)`, each with the words of the axis swapped."""
    return texts(swapped_text(text, language, axis) for text in rows.tolist())
