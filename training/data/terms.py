"""Under which terms each origin of examples came: what a model card has to say about a model that learned from them."""

# Example.origin → (data set, terms). The terms are those of the data sets' authors.
TERMS = {
    "goemotions": ("GoEmotions", "CC BY 4.0"),
    "ag_news": ("AG News", "research and non-commercial use"),
    "ag_headline": ("AG News", "research and non-commercial use"),
    "ag_lead": ("AG News", "research and non-commercial use"),
    "dialogsum": ("DialogSum", "CC BY-NC-SA 4.0"),
    "scitldr_abstract": ("SciTLDR abstracts", "Apache-2.0"),
    "cnn_dailymail": ("CNN/DailyMail", "research use; articles belong to their publishers"),
    "cnn_oracle": ("CNN/DailyMail", "research use; articles belong to their publishers"),
    "bbc_news": ("BBC News Summary", "non-commercial research; articles belong to the BBC"),
    "gap_sentence": ("passages of the texts above and of BBC News Summary", "non-commercial research"),
    "legal_plain_english": ("Plain English legal summaries", "no licence stated; ToS;DR parts CC BY-SA"),
    "booksum": ("BookSum chapters", "BSD-3-Clause code; texts from Project Gutenberg"),
    "gutenberg": ("Project Gutenberg prose", "public domain in the USA"),
}
UNKNOWN = "terms not recorded here: check them before you share the model"


def terms_of(origin: str) -> tuple[str, str]:
    """Data set and terms of an origin."""
    return TERMS.get(origin, (origin, UNKNOWN))
