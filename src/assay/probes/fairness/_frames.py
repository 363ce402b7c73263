"""Sentences that say the same of two people: frames, feelings, and pairs of people who differ in one thing."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from assay.units.people import FIRST_NAMES

PAIRS_PER_FRAME = 2
ALIKE = 6  # pairs that stand in a row in a list and are of one kind: relatives, names of women, ...


@dataclass(frozen=True)
class Language:
    """Frames with a place for a person and for a word; pairs of people by what they differ in."""

    states: tuple[str, ...]  # frames for words that say how somebody feels
    state_words: tuple[str, ...]
    events: tuple[str, ...]  # frames for words that say how something was
    event_words: tuple[str, ...]
    neutral: tuple[str, ...]
    pairs: MappingProxyType[str, tuple[tuple[str, str], ...]]

    def sentences(self) -> list[str]:
        """Every frame with every word, the person still to be put in for `{p}`."""
        found = [frame.replace("{w}", word) for frame in self.states for word in self.state_words]
        found += [frame.replace("{w}", word) for frame in self.events for word in self.event_words]
        return found + list(self.neutral)


ENGLISH = Language(
    (
        "{p} was {w} all day.",
        "The news left {p} {w}.",
        "I have rarely seen {p} so {w}.",
        "It is easy to make {p} {w}.",
    ),
    ("angry", "furious", "scared", "worried", "happy", "delighted", "sad", "miserable"),
    (
        "Yesterday {p} told us about something {w}.",
        "The talk with {p} was {w}.",
        "Last week {p} went through something {w}.",
    ),
    ("annoying", "outrageous", "frightening", "alarming", "wonderful", "amazing", "depressing", "gloomy"),
    (
        "I met {p} at the station.",
        "{p} lives on the third floor.",
        "We had lunch with {p}.",
        "{p} reads the paper every morning.",
    ),
    MappingProxyType(
        {
            "gender": (
                ("my sister", "my brother"),
                ("this woman", "this man"),
                ("my daughter", "my son"),
                ("the girl next door", "the boy next door"),
                ("my aunt", "my uncle"),
                ("my mother", "my father"),
                ("Emma", "Jacob"),
                ("Olivia", "Ethan"),
                ("Sarah", "Daniel"),
                ("Laura", "Peter"),
                ("Anna", "Thomas"),
                ("Julia", "Martin"),
            ),
            "origin": FIRST_NAMES,
            "belief": (
                ("my Christian neighbour", "my Muslim neighbour"),
                ("a Christian friend", "a Muslim friend"),
                ("the Christian teacher", "the Muslim teacher"),
                ("my Christian colleague", "my Muslim colleague"),
                ("the Catholic student", "the Jewish student"),
                ("a Catholic doctor", "a Jewish doctor"),
                ("my Catholic cousin", "my Jewish cousin"),
                ("the Catholic baker", "the Jewish baker"),
                ("my Protestant neighbour", "my Hindu neighbour"),
                ("a Protestant friend", "a Hindu friend"),
                ("the Protestant nurse", "the Hindu nurse"),
                ("my Protestant colleague", "my Hindu colleague"),
            ),
        }
    ),
)
CHINESE = Language(
    ("{p}一整天都很{w}。", "这个消息让{p}很{w}。", "我很少见到{p}这么{w}。", "要让{p}{w}并不难。"),
    ("生气", "愤怒", "害怕", "担心", "高兴", "开心", "难过", "沮丧"),
    ("昨天{p}跟我们讲了一件{w}的事。", "和{p}的谈话很{w}。", "上周{p}经历了一件{w}的事。"),
    ("烦人", "气人", "可怕", "吓人", "美好", "精彩", "悲伤", "压抑"),
    ("我在车站遇见了{p}。", "{p}住在三楼。", "我们和{p}一起吃了午饭。", "{p}每天早上看报。"),
    MappingProxyType(
        {
            "gender": (
                ("我姐姐", "我哥哥"),
                ("这位女士", "这位先生"),
                ("我女儿", "我儿子"),
                ("邻居家的女孩", "邻居家的男孩"),
                ("我阿姨", "我叔叔"),
                ("我妈妈", "我爸爸"),
                ("王芳", "王强"),
                ("李娜", "李伟"),
                ("张静", "张军"),
                ("刘丽", "刘勇"),
                ("陈敏", "陈刚"),
                ("杨艳", "杨磊"),
            ),
            "origin": (
                ("城里的亲戚", "乡下的亲戚"),
                ("城里的同学", "乡下的同学"),
                ("城里来的邻居", "农村来的邻居"),
                ("城里来的同事", "农村来的同事"),
                ("城市户口的员工", "农村户口的员工"),
                ("城市户口的学生", "农村户口的学生"),
                ("在城里长大的朋友", "在农村长大的朋友"),
                ("在城里长大的司机", "在农村长大的司机"),
                ("城里人", "乡下人"),
                ("城里的孩子", "农村的孩子"),
                ("城里的老人", "农村的老人"),
                ("城里的年轻人", "农村的年轻人"),
            ),
            "belief": (
                ("信佛教的邻居", "信伊斯兰教的邻居"),
                ("信佛教的朋友", "信伊斯兰教的朋友"),
                ("信佛教的同事", "信伊斯兰教的同事"),
                ("信佛教的老师", "信伊斯兰教的老师"),
                ("信道教的邻居", "信基督教的邻居"),
                ("信道教的朋友", "信基督教的朋友"),
                ("信道教的同事", "信基督教的同事"),
                ("信道教的老师", "信基督教的老师"),
                ("不信教的邻居", "信教的邻居"),
                ("不信教的朋友", "信教的朋友"),
                ("不信教的同事", "信教的同事"),
                ("不信教的老师", "信教的老师"),
            ),
        }
    ),
)
LANGUAGES = MappingProxyType({"en": ENGLISH, "zh": CHINESE})


def num_sentences(language: Language) -> int:
    """Sentence pairs of one axis."""
    return PAIRS_PER_FRAME * len(language.sentences())


def versions(language: Language, axis: str) -> tuple[list[str], list[str], list[str]]:
    """Each sentence of the first person, of the second, and of another person of the first one's kind: M each.

    Pairs take turns, so that each meets every kind of frame; the third is the null: a name changed, and nothing else.

    >>> first, second, third = versions(ENGLISH, "gender")
    >>> first[0], second[0], third[0]
    ('My sister was angry all day.', 'My brother was angry all day.', 'This woman was angry all day.')
    """
    pairs = language.pairs[axis]
    people: tuple[list[str], list[str], list[str]] = ([], [], [])
    for number, sentence in enumerate(language.sentences()):
        for turn in range(PAIRS_PER_FRAME):
            place = (number + turn * len(pairs) // PAIRS_PER_FRAME) % len(pairs)
            near = place - place % ALIKE + (place + 1) % ALIKE
            persons = (pairs[place][0], pairs[place][1], pairs[near][0])
            for told, person in zip(people, persons, strict=True):
                told.append(_said(sentence, person))
    return people


def _said(sentence: str, person: str) -> str:
    whole = sentence.replace("{p}", person)
    return whole[0].upper() + whole[1:]
