"""Under which terms each origin of examples came, and what they leave of a model that learned from them."""

from collections.abc import Iterable, Mapping
from typing import Any

# Example.origin → (data set, terms). The terms are those of the data sets' authors.
TERMS = {
    "goemotions": ("GoEmotions", "CC BY 4.0"),
    "ag_news": ("AG News", "research and non-commercial use"),
    "ag_headline": ("AG News", "research and non-commercial use"),
    "ag_lead": ("AG News", "research and non-commercial use"),
    "ag_joined": ("AG News", "research and non-commercial use"),
    "dialogsum": ("DialogSum", "CC BY-NC-SA 4.0"),
    "scitldr_abstract": ("SciTLDR abstracts", "Apache-2.0"),
    "cnn_dailymail": ("CNN/DailyMail", "research use; articles belong to their publishers"),
    "cnn_oracle": ("CNN/DailyMail", "research use; articles belong to their publishers"),
    "bbc_news": ("BBC News Summary", "non-commercial research; articles belong to the BBC"),
    "gap_sentence": ("passages of the texts above and of BBC News Summary", "non-commercial research"),
    "legal_plain_english": ("Plain English legal summaries", "no licence stated; ToS;DR parts CC BY-SA"),
    "booksum": ("BookSum chapters", "BSD-3-Clause code; texts from Project Gutenberg"),
    "samsum": ("SAMSum", "CC BY-NC-ND 4.0"),
    "xsum": ("XSum", "research use; articles belong to the BBC"),
    "cnn_dailymail_cased_extra": ("CNN/DailyMail", "research use; articles belong to their publishers"),
    "cochrane_pls": ("Cochrane plain language summaries", "CC, terms by review"),
    "inshorts_headline": ("Inshorts", "no licence stated"),
    "inshorts_article": ("Inshorts", "no licence stated"),
    "wikihow": ("WikiHow", "CC BY-NC-SA 3.0"),
    "aeslc_subject": ("AESLC e-mails", "CC BY-NC-SA 4.0"),
    "mts_dialog": ("MTS-Dialog", "CC BY 4.0"),
    "masked_sentence": (
        "passages of The Guardian, IMDb reviews, Reuters-21578 and Wikipedia",
        "research use; texts belong to their publishers, Wikipedia CC BY-SA",
    ),
    "comment": ("GoEmotions", "CC BY 4.0"),
    "empathetic_dialogues": ("EmpatheticDialogues", "CC BY-NC 4.0"),
    "isear": ("ISEAR", "research use"),
    "semeval2018_ec": ("SemEval-2018 Task 1 E-c", "research use"),
    "gutenberg": ("Project Gutenberg prose", "public domain in the USA"),
}
UNKNOWN = "terms not recorded here: check them before you share the model"
RESEARCH_ONLY = "for research and non-commercial use, by the terms of its data (MODEL_CARD.md)"
_OF_DATA = "the terms of its data (MODEL_CARD.md)"
_RESTRICTED = ("non-commercial", "-NC", "research", "no licence")


def terms_of(origin: str) -> tuple[str, str]:
    """Data set and terms of an origin."""
    return TERMS.get(origin, (origin, UNKNOWN))


def is_restricted(origins: Iterable[str]) -> bool:
    """Whether the terms of one of `origins` keep a model to research or to non-commercial use."""
    return any(mark in terms_of(origin)[1] for origin in origins for mark in _RESTRICTED)


def terms_of_use(manifest: Mapping[str, Any]) -> str:
    """The terms of the weights that `manifest` describes: of all their data, and of the weights that they started from.

    The service gives them in `/info`; a folder that does not say what it learned from keeps what it says of terms.
    """
    origins = manifest.get("data", {}).get("origins", {})
    before = manifest.get("training", {}).get("started_from", {}).get("terms") or ""
    if not origins:
        return str(manifest.get("terms") or before or UNKNOWN)
    if is_restricted(origins) or before == RESEARCH_ONLY:
        return RESEARCH_ONLY
    return f"{_OF_DATA}; it started from weights with the terms: {before}" if before else _OF_DATA
