from training.data.real_words import no_words, words

SOURCE = "Amanda: I baked 12 cookies for Jerry’s party.\nJerry: Sure!"


def test_a_word_is_what_the_source_or_some_text_has() -> None:
    known = words(["They will meet again", "bake"])
    assert no_words("Amanda will meet Jerry", SOURCE, known) == []
    assert no_words("Amanda ucfilebackgif meets Jerry", SOURCE, known) == ["ucfilebackgif", "meets"]
