from training.data.real_words import common_words, no_words, words

SOURCE = "Amanda: I baked 12 cookies for Jerry’s party.\nJerry: Sure!"


def test_a_word_is_what_the_source_or_some_text_has() -> None:
    known = words(["They will meet again", "bake"])
    assert no_words("Amanda will meet Jerry", SOURCE, known) == []
    assert no_words("Amanda ucfilebackgif meets Jerry", SOURCE, known) == ["ucfilebackgif", "meets"]


def test_common_words_are_those_that_enough_texts_have_in_lower_case() -> None:
    texts = [
        "Tom tells us that Anna doesn't know.",
        "He tells Bill: bill Bill.",
        "the tom of lower case tells anna",
        "",
    ]
    assert common_words(texts, 2) == {"tells"}
    assert common_words(texts, 1) == {"tells", "us", "that", "doesn't", "know", "bill"}
