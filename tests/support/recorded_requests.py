"""What is asked of a service to see that its answers stay: every old route, options, lists, long texts, errors."""

from typing import Any

NEWS = (
    "The harbour town opened its new library on Saturday. Three hundred people came in the first hour, and the mayor "
    "read a story to the children. The building cost nine million euros, two million more than planned."
)
MATCH = (
    "Ravens striker Ella Novak scored twice in the last five minutes as the home side beat the leaders 3-2. The coach "
    "said that nobody in the stadium had believed in it any more."
)
MARKET = "The bank cut its forecast for the year, and its shares fell six percent before the market closed on Monday."
LAB = "Researchers have printed a lens thinner than a hair, which could make the cameras of small satellites lighter."
THANKS = "Thank you so much, that was the kindest thing anybody has done for me this year!"
ANGRY = "I am sick of this, they promised it twice and nothing came of it."
CHAT = (
    "#Person1#: Did you water the plants?\n#Person2#: I forgot, sorry. I'll do it tonight.\n"
    "#Person1#: Please do, they look terrible."
)
LONG = " ".join([NEWS, MATCH, MARKET, LAB] * 12)
MIXED = [NEWS, ANGRY, CHAT, "Ж", "naïve café — 東京 🙂"]
SHORT = {"max_new_tokens": 16}

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/summarize", {"text": NEWS}),
    ("/summarize", {"text": MATCH, "max_new_tokens": 24, "num_beams": 4, "length_penalty": 0.6}),
    ("/summarize", {"text": CHAT, **SHORT, "num_beams": 2, "early_stopping": True, "no_repeat_ngram_size": 2}),
    ("/summarize", {"text": MARKET, **SHORT, "do_sample": True, "seed": 7, "top_k": 20, "top_p": 0.9}),
    ("/summarize", {"text": LAB, **SHORT, "min_new_tokens": 12, "repetition_penalty": 1.3}),
    ("/summarize", {"text": [NEWS, MARKET], **SHORT}),
    ("/summarize", {"text": LONG, "max_new_tokens": 8}),
    ("/summarize", {"text": LONG, "max_new_tokens": 8, "on_long": "truncate"}),
    ("/summarize", {"text": CHAT, **SHORT, "stream": True}),
    ("/summarize", {"text": LONG, "on_long": "error"}),
    ("/summarize", {"text": NEWS, "max_new_tokens": 0, "tone": "dry"}),
    ("/summarize", {"text": [NEWS], "stream": True}),
    ("/emotions", {"text": THANKS}),
    ("/emotions", {"text": ANGRY, "threshold": 0}),
    ("/emotions", {"text": ANGRY, "top_k": 3}),
    ("/emotions", {"text": MIXED}),
    ("/emotions", {"text": LONG, "threshold": 0.2}),
    ("/emotions", {"text": [THANKS, " "]}),
    ("/emotions", {"text": THANKS, "threshold": 1.5}),
    ("/emotions", {"text": ""}),
    ("/emotions", {"text": 3, "mood": "good"}),
    ("/topic", {"text": MARKET}),
    ("/topic", {"text": MATCH, "top_k": 2}),
    ("/topic", {"text": MIXED}),
    ("/topic", {"text": LONG}),
    ("/topic", {"text": [LAB] * 9}),
    ("/topic", {"text": LAB, "threshold": 0.5}),
    ("/topic", {}),
    ("/analyze", {"text": NEWS, "summary": SHORT}),
    ("/analyze", {"text": LONG, "summary": {"max_new_tokens": 4}}),
    ("/analyze", {"text": [CHAT, LAB], "tasks": ["topic", "emotions"]}),
    ("/analyze", {"text": MATCH, "tasks": ["summarize"], "summary": {"num_beams": 2, "max_new_tokens": 12}}),
    ("/analyze", {"text": MATCH, "tasks": ["topic", "topic"]}),
    ("/analyze", {"text": MATCH, "tasks": ["sentiment"]}),
    ("/analyze", {"text": 1, "tasks": ["topic", "moods", 3], "extra": 1}),
    ("/analyze", {"text": MATCH, "tasks": []}),
    ("/analyze", {"text": MATCH, "tasks": ["topic"] * 4}),
    ("/analyze", {"text": MATCH, "tasks": "topic"}),
    ("/hf/summarize", {"inputs": NEWS, "parameters": {"generate_parameters": SHORT}}),
    ("/hf/summarize", {"inputs": [NEWS, LONG], "parameters": {"truncation": "only_first"}}),
    ("/hf/emotions", {"inputs": THANKS}),
    ("/hf/emotions", {"inputs": [ANGRY, NEWS], "parameters": {"top_k": 2, "function_to_apply": "sigmoid"}}),
    ("/hf/emotions", {"inputs": ANGRY, "parameters": {"function_to_apply": "softmax"}}),
    ("/hf/topic", {"inputs": LAB, "parameters": {}}),
    ("/hf/topic", {"inputs": LAB, "parameters": {"function_to_apply": "sigmoid"}}),
    ("/predict", {"inputs": THANKS}),
    ("/predict", {"inputs": [[ANGRY], [LAB]]}),
    ("/predict?task=topic", {"inputs": LONG, "truncate": True}),
    ("/predict?task=topic", {"inputs": ["a", "b"]}),
    ("/predict?task=mood", {"inputs": "a"}),
    ("/predict?head=topic", {"inputs": "a"}),
]
