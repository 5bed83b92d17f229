"""The requests of the examples in `/docs`: of every route what it is for, and what it refuses."""

from typing import Any

BRIDGE = (
    "The city council of Bristol voted on Tuesday to close the old harbour bridge to cars from next spring. Cyclists "
    "welcomed the decision, but shop owners nearby fear that they will lose customers."
)
QUAKE = (
    "A strong earthquake struck the coast of northern Japan early on Wednesday, injuring dozens of people and cutting "
    "power to thousands of homes. Officials issued a tsunami warning, which was lifted three hours later."
)
CHAT = (
    "#Person1#: Did you book the tickets for Saturday?\n#Person2#: Not yet, I was waiting for your answer.\n"
    "#Person1#: Please take the early train, and two seats by the window."
)
SHARES = "Shares rose on Monday after the bank raised its forecast."
THANKS = "Thank you so much, I love it!"
SORRY = "I am so sorry, I did not mean to hurt you."
# More than the bundled model reads at once; the chapters are its chunks.
LONG = "\n\n\n".join(
    f"CHAPTER {number}. {title}\n\n{first} {' '.join(f'On day {day} {rest}' for day in range(2, 12))}"
    for number, title, first, rest in (
        (
            "I",
            "The Bridge",
            BRIDGE,
            "Anna Reed walked across the old bridge and asked the shop owners what they feared.",
        ),
        (
            "II",
            "The Quake",
            QUAKE,
            "the harbour was full of boats, and the engineers counted the broken windows again.",
        ),
    )
)

# By route: (name, what it shows, body). `{head}` is asked as topic.
ANSWERED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "/summarize": [
        ("text", "A text", {"text": BRIDGE}),
        ("dialogue", "A dialogue, with four beams", {"text": CHAT, "num_beams": 4}),
        ("several", "Several texts", {"text": [BRIDGE, QUAKE], "max_new_tokens": 48}),
        ("support", "What backs the summary", {"text": BRIDGE, "support": True}),
        ("grounded", "Without names and numbers that the text lacks", {"text": CHAT, "grounded": True}),
        (
            "reduce",
            "A long text, until the summary is short enough",
            {"text": LONG, "on_long": "reduce", "target_tokens": 40, "max_new_tokens": 24, "detail": "chunks"},
        ),
        ("stream", "As it is decoded", {"text": BRIDGE, "max_new_tokens": 8, "stream": True}),
    ],
    "/emotions": [
        ("text", "A text", {"text": THANKS}),
        ("best", "The three best, whatever their scores", {"text": SORRY, "top_k": 3}),
        ("several", "Several texts", {"text": [THANKS, SORRY]}),
    ],
    "/topic": [
        ("text", "A text", {"text": SHARES}),
        ("several", "Several texts, the best label of each", {"text": [SHARES, QUAKE], "top_k": 1}),
    ],
    "/classify/{head}": [
        ("text", "A text, with the head topic", {"text": SHARES}),
        ("best", "The best two labels", {"text": QUAKE, "top_k": 2}),
    ],
    "/analyze": [
        ("text", "All tasks", {"text": QUAKE}),
        (
            "chosen",
            "Some tasks, and options of the summary",
            {"text": BRIDGE, "tasks": ["summarize", "topic"], "summary": {"max_new_tokens": 12}},
        ),
    ],
    "/hf/summarize": [
        ("text", "A text", {"inputs": BRIDGE}),
        (
            "options",
            "With options",
            {"inputs": CHAT, "parameters": {"generate_parameters": {"num_beams": 4, "max_new_tokens": 48}}},
        ),
    ],
    "/hf/emotions": [("best", "The best three labels", {"inputs": THANKS, "parameters": {"top_k": 3}})],
    "/hf/topic": [("text", "A text", {"inputs": SHARES})],
    "/hf/classify/{head}": [("text", "A text, with the head topic", {"inputs": SHARES})],
    "/predict": [
        ("text", "A text, by the emotions", {"inputs": THANKS}),
        ("several", "Several texts", {"inputs": [[THANKS], [SORRY]]}),
    ],
}

# Bodies that are refused with 422, by what is wrong with them; each is made of a route's first example.
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "blank": ("A blank text", {"text": " ", "inputs": " "}),
    "unknown": ("A field that is not known", {"tone": "dry"}),
}
WRONG_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "options": ("Options over their limits", {"num_beams": 99, "max_new_tokens": 0}),
}
