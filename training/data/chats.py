"""Chats of named speakers as people paste them: other names, other ways to mark a speaker, emoji and currencies.

A variation changes source and summary alike, so that the summary stays true of its source.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from training.data.examples import Example
from training.data.typography import LETTERS_WITH_MARKS, base_letter

_SPEAKER = re.compile(r"^([^\W\d_][^:\n]{0,24}):", re.MULTILINE)
_NAME = re.compile(r"\b[A-Z][a-zà-ž]{2,}\b")
# Names that the data lacks: such as have letters with marks.
_NAMES_WITH_MARKS = (
    "Zoë José Chloé René Renée Björn Jürgen Łukasz Małgorzata Søren Åsa Göran Ümit Ayşe Çağla Özgür İpek Şebnem Zoé "
    "Noël Anaïs Beyoncé Renée André Inès Agnès Éric Élodie Émile Sébastien François Françoise Gaëlle Jérôme Maëlle "
    "Martín Sofía Lucía Andrés Tomás Álvaro Íñigo Óscar Úrsula Nuño Begoña Iñaki Muñoz Peña Núñez García López Pérez "
    "Müller Schäfer Köhler Böhm Jäger Weiß Groß João Conceição Gonçalo Inês Luís Antônio Lúcia Simão Jørgen Håkon "
    "Bjørk Ægir Þór Guðrún Kjærsti Øyvind Aslaug Jiří Tomáš Lukáš Petra Ondřej Zdeněk Božena Šárka Žofie Václav "
    "Dvořák Novák Černý Ľubomír Kováč Đorđe Živko Miloš Željko Ivić Kovačević Šimunić Ștefan Ioniță Mărginean Țiriac "
    "Gyöngyi Ákos Gergő Zsófia Bálint Erdős Nagyné Tőkés Kārlis Jānis Līga Ģirts Ēriks Žydrūnas Šarūnas Ąžuolas"
).split()
_EMOJI = {
    **{
        ":)": "🙂😊😀",
        ":-)": "🙂😊",
        ":(": "🙁😞",
        ":-(": "☹😞",
        ":D": "😄😃",
        ";)": "😉",
        ";-)": "😉",
        ":P": "😜",
        "<3": "❤",
    }
}
_SMILEY = re.compile("|".join(re.escape(smiley) for smiley in sorted(_EMOJI, key=len, reverse=True)) + r"(?!\w)")
_CURRENCIES = "£€¥₹₽₩₺₿₴"
_VARIANTS: dict[str, list[str]] = {}
for _letter in LETTERS_WITH_MARKS:
    _VARIANTS.setdefault(base_letter(_letter), []).append(_letter)
_MORE_EMOJI = "😂❤😍😭😊🙏😘👍😅👏😁🔥😢🤔😆🙄💪😉👌🤗😎🎉😱🙂😃🤷🤦"


def varied(examples: Sequence[Example], copies: int, seed: int) -> Iterator[Example]:
    """`copies` of each chat, each with other names for its speakers; some in other forms."""
    rng = random.Random(seed)
    pool = sorted({name for example in examples for name in speakers(example.source) if " " not in name})
    for example in examples:
        for _ in range(copies):
            yield _formed(_renamed(example, pool, rng), rng)


def speakers(chat: str) -> list[str]:
    """Who speaks in `chat`, in order of appearance."""
    return list(dict.fromkeys(name.strip() for name in _SPEAKER.findall(chat)))


def _renamed(example: Example, pool: Sequence[str], rng: random.Random) -> Example:
    named = speakers(example.source)
    both = {name for name in _NAME.findall(example.summary or "") if name in named}
    # Sorted before numbers are drawn: the order of a set is another in every process.
    mentioned = [
        name
        for name in sorted(set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]{2,}\b", example.summary or "")))
        if name not in both and re.search(rf"\b{name}\b", example.source) and rng.random() < 0.5
    ]
    names = list(dict.fromkeys([*named, *mentioned]))
    others = [_name(pool, rng) for _ in names]
    mapping = dict(zip(names, others, strict=True))
    if len(set(others)) < len(others) or not mapping:
        return example
    # A speaker `Tom Baker` is called Tom in the summary.
    mapping |= {
        name.split()[0]: other.split()[0]
        for name, other in mapping.items()
        if " " in name and name.split()[0] not in mapping
    }
    pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, sorted(mapping, key=len, reverse=True))) + r")(?!\w)")

    def exchange(text: str) -> str:
        return pattern.sub(lambda match: mapping[match[0]], text)

    return replace(example, source=exchange(example.source), summary=exchange(example.summary or ""))


def _name(pool: Sequence[str], rng: random.Random) -> str:
    kind = rng.random()
    name = rng.choice(_NAMES_WITH_MARKS if kind < 0.06 else pool)
    if kind > 0.9:  # no real name: so that every letter occurs often enough to be distinguished from similar ones
        name = "".join(rng.choice(_VARIANTS[c]) if c in _VARIANTS and rng.random() < 0.5 else c for c in name)
    return name


def _formed(example: Example, rng: random.Random) -> Example:
    source, summary = example.source, example.summary or ""
    if "$" in source and rng.random() < 0.5:
        currency = rng.choice(_CURRENCIES)
        source, summary = source.replace("$", currency), summary.replace("$", currency)
    if rng.random() < 0.5:
        source = _SMILEY.sub(lambda match: rng.choice(_EMOJI[match[0]]), source)
    if rng.random() < 0.15:
        lines = source.split("\n")
        number = rng.randrange(len(lines))
        lines[number] += f" {rng.choice(_MORE_EMOJI) * rng.choice((1, 1, 2, 3))}"
        source = "\n".join(lines)
    form = rng.random()
    if form < 0.1:
        source = source.replace("\n", " ")
    elif form < 0.2:
        source = _timed(source, rng)
    elif form < 0.24:
        source = _SPEAKER.sub(r"<\1>", source)
    elif form < 0.3:
        source = _SPEAKER.sub(r"\1 -", source)
    return replace(example, source=source, summary=summary)


def _timed(chat: str, rng: random.Random) -> str:
    minute = rng.randrange(24 * 60)
    kind = rng.randrange(3)

    def line(match: re.Match[str]) -> str:
        nonlocal minute
        minute = (minute + rng.randrange(3)) % (24 * 60)
        time = f"{minute // 60:02}:{minute % 60:02}"
        return (f"[{time}] {match[1]}:", f"{match[1]} ({time}):", f"{match[1]}, {time}:")[kind]

    return _SPEAKER.sub(line, chat)
