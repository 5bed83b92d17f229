"""The page: a text or a file in; summary, emotions, topic and what backs them out."""

import asyncio
import json
import math
import re
import shlex
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from app.demo import markup
from app.demo.client import Answer, Client, Progress, ServiceError
from app.demo.examples import EXAMPLES
from app.demo.extract import PARSERS
from app.demo.files import MAX_FILE_BYTES, FileError, text_of

_PIECES_EVERY_S = 0.05
_LONG_CHARS = 3_000  # from here on a text has a timeline
_SEGMENT_CHARS, _MAX_SEGMENTS = 1_200, 24
_BOUNDARY = re.compile(r"\n\s*\n|(?<=[.!?])\s+")
_EMPTY = "Nothing yet: type, paste or drop a text, or choose one of those below it."
# What one answer shows: summary, labels, source, timeline and its section, facts, curl, Python.
Shown = tuple[Any, ...]


def page(client: Client, shown_url: str) -> gr.Blocks:
    """The page for the service of `client`, which people reach at `shown_url`."""
    with gr.Blocks(title="LexiMind", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        about = gr.HTML(_heading(None))
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                text = gr.Textbox(
                    label="Text",
                    lines=12,
                    max_lines=12,  # one that grows with its text is measured anew at every key, a novel for minutes
                    autofocus=True,
                    placeholder="An article, a chat, a mail, a whole book …",
                    elem_id="lm-text",
                )
                file = gr.UploadButton("Open a file (txt, md, pdf, docx)", file_types=list(PARSERS), size="sm")
                with gr.Row():
                    run = gr.Button("Analyze", variant="primary", elem_id="lm-analyze")
                    stop = gr.Button("Stop", variant="stop", visible=False)
                gr.Examples([[one] for one in EXAMPLES.values()], text, example_labels=list(EXAMPLES), label="Examples")
                with gr.Accordion("Options", open=False):
                    beams = gr.Slider(
                        1, 8, 1, step=1, label="Beams", info="More are slower, often better, and no stream."
                    )
                    length = gr.Slider(16, 256, 128, step=8, label="Most tokens of a summary")
                    grounded = gr.Checkbox(
                        True, label="Only names and numbers of the text", info="None that it lacks can be written."
                    )
            with gr.Column(scale=1, min_width=320):
                gr.Markdown("### Summary")
                summary = gr.HTML(markup.note(_EMPTY), elem_id="lm-summary")
                facts = gr.HTML("", elem_id="lm-facts")
                labels = gr.HTML("", elem_id="lm-labels")
        with gr.Column(visible=False) as over_time:
            gr.Markdown("### Over the text")
            timeline = gr.HTML("", elem_id="lm-timeline")
        with gr.Accordion("What backs it in the text", open=True):
            source = gr.HTML(markup.note("Point at a sentence of the summary, or move to it by the Tab key."))
        with gr.Accordion("The same by REST", open=False), gr.Row():
            curl = gr.Code(label="curl", language="shell", wrap_lines=True, elem_id="lm-curl")
            python = gr.Code(label="Python", language="python", wrap_lines=True, elem_id="lm-python")
        outputs = [summary, labels, source, timeline, over_time, facts, curl, python]

        async def analyze(text: str, beams: int, length: int, is_grounded: bool) -> AsyncGenerator[Shown, None]:
            async with aclosing(_answers(client, shown_url, text, int(beams), int(length), is_grounded)) as answers:
                async for one in answers:
                    yield one

        async def read(path: str) -> str:
            try:
                return await text_of(Path(path))
            except FileError as error:
                raise gr.Error(str(error), duration=20) from None

        async def tell_model() -> str:
            try:
                return _heading(await client.info())
            except ServiceError as error:
                return _heading(None) + markup.failure(str(error))

        buttons = [run, stop]
        begin = gr.on(
            [run.click, text.submit],
            lambda: (gr.update(visible=False), gr.update(visible=True)),
            outputs=buttons,
            api_visibility="private",
            queue=False,
        )
        running = begin.then(
            analyze, [text, beams, length, grounded], outputs, api_visibility="private", show_progress="hidden"
        )
        end = lambda: (gr.update(visible=True), gr.update(visible=False))  # noqa: E731
        running.then(end, outputs=buttons, api_visibility="private", queue=False)
        stop.click(end, outputs=buttons, cancels=[running], api_visibility="private", queue=False)
        file.upload(read, file, text, api_visibility="private")
        blocks.load(tell_model, outputs=about, api_visibility="private")
    blocks.queue(default_concurrency_limit=16, max_size=64)
    return blocks  # type: ignore[no-any-return]


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own system: nothing is fetched from elsewhere."""
    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    return gr.themes.Default(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])


MAX_UPLOAD = MAX_FILE_BYTES


async def _answers(
    client: Client, url: str, text: str, beams: int, length: int, is_grounded: bool
) -> AsyncGenerator[Shown, None]:
    keep = gr.skip()
    if not text or not text.strip():
        yield (markup.failure("There is no text. Type or paste one, drop a file, or choose an example."), *[keep] * 7)
        return
    body: Answer = {
        **{"text": text, "num_beams": beams, "max_new_tokens": length},
        **{"on_long": "reduce", "grounded": is_grounded, "support": True},
    }
    code = _curl(url, body, client.api_key is not None), _python(url, body, client.api_key is not None)
    yield (markup.partial_summary(""), "", markup.note("…"), "", gr.update(visible=False), "", *code)
    try:
        info = await client.info()
        heads = info["heads"]
        [whole] = await _scores(client, heads, [text])
        spans = _cut(text) if heads else []
        parts = await _scores(client, heads, [text[start:end] for start, end in spans]) if spans else []
        segments = [markup.Segment(*span, scores) for span, scores in zip(spans, parts, strict=True)]
        labels = "".join(markup.labels(head, whole[head["name"]]) for head in heads)
        over_time = markup.timeline(heads, segments, len(text)) if segments else ""
        yield (keep, labels, keep, over_time, gr.update(visible=bool(segments)), *[keep] * 3)
        if "summarize" not in info["tasks"]:
            yield (markup.note("This checkpoint writes no summaries."), keep, markup.note(""), *[keep] * 5)
            return
        async with aclosing(_summarize(client, text, body)) as shown:
            async for summary, source, facts in shown:
                yield (summary, keep, source, keep, keep, facts, keep, keep)
    except ServiceError as error:
        yield (markup.failure(str(error)), keep, markup.note(""), *[keep] * 5)


async def _summarize(client: Client, text: str, body: Answer) -> AsyncGenerator[tuple[Any, Any, Any], None]:
    began, first, shown_at, written = time.perf_counter(), math.nan, 0.0, ""
    answer: Answer = {}
    if body["num_beams"] > 1:  # has no tokens before its end
        answer = await client.ask("/summarize", body)
    else:
        async with aclosing(client.stream(body)) as pieces:
            async for piece in pieces:
                now = time.perf_counter()
                if isinstance(piece, Progress):
                    done = f"Round {piece.round}: {piece.done} of {piece.chunks} parts are summarized …"
                    yield markup.note(done), gr.skip(), gr.skip()
                    continue
                if not isinstance(piece, str):
                    answer = piece
                    break
                first = now - began if math.isnan(first) else first
                written += piece
                if now - shown_at >= _PIECES_EVERY_S:
                    shown_at = now
                    yield markup.partial_summary(written), gr.skip(), gr.skip()
    taken = time.perf_counter() - began
    yield markup.summary(answer), markup.source(text, answer), markup.note(_facts(answer, first, taken))


async def _scores(client: Client, heads: Sequence[Answer], texts: Sequence[str]) -> list[dict[str, markup.Scores]]:
    """Of each text by the name of each head the scores of all labels, best first."""

    async def ask(head: Answer) -> list[markup.Scores]:
        everything = {"threshold": 0.0} if head["kind"] == "multi_label" else {}
        answers = await client.ask(f"/classify/{head['name']}", {"text": texts, **everything})
        return [
            {one["label"]: one["score"] for one in answer.get("scores", answer.get("labels"))} for answer in answers
        ]

    by_head = await asyncio.gather(*map(ask, heads))
    return [{head["name"]: scores[n] for head, scores in zip(heads, by_head, strict=True)} for n in range(len(texts))]


def _cut(text: str) -> list[tuple[int, int]]:
    """Where the parts of a long text are, cut at the ends of paragraphs and sentences; a short one has none."""
    if len(text) < _LONG_CHARS:
        return []
    size = max(_SEGMENT_CHARS, math.ceil(len(text) / _MAX_SEGMENTS))
    ends = [match.end() for match in _BOUNDARY.finditer(text)]
    spans, start = [], 0
    for end in [*ends, len(text)]:
        if (end - start >= size or end == len(text)) and text[start:end].strip():
            spans.append((start, end))
            start = end
    return spans[:_MAX_SEGMENTS]


def _facts(answer: Answer, first_s: float, taken_s: float) -> str:
    start = "" if math.isnan(first_s) else f"first words after {first_s:.2f} s, "
    parts = answer["chunks"]
    cut = ", cut at the most tokens" if answer["finish_reason"] == "length" else ""
    return (
        f"{start}{taken_s:.2f} s in all; {answer['output_tokens']:,} tokens written{cut} "
        f"({answer['output_tokens'] / taken_s:,.0f} a second), {answer['input_tokens']:,} read"
        f"{f' in {parts} parts' if parts > 1 else ''}."
    ).capitalize()


def _heading(info: Answer | None) -> str:
    model = f"{info['model_id']}, {info['model_dtype']} on {info['model_device_type']}" if info else ""
    terms = f" The model is {info['model_terms']}." if info and info.get("model_terms") else ""
    line = f"Model: {model}.{terms}" if info else "Asking the service …"
    return f"<h1>LexiMind</h1><p>A summary, its emotions and its topic, and what backs them.</p>{markup.note(line)}"


def _curl(url: str, body: Answer, has_key: bool) -> str:
    key = ' \\\n  -H "authorization: Bearer $LEXIMIND_API_KEY"' if has_key else ""
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {url}/summarize \\\n  -H 'content-type: application/json'{key} \\\n  -d {data}"


def _python(url: str, body: Answer, has_key: bool) -> str:
    key = ', headers={"Authorization": f"Bearer {os.getenv(\'LEXIMIND_API_KEY\')}"}' if has_key else ""
    imports = "import os\n\nimport httpx" if has_key else "import httpx"
    return (
        f"{imports}\n\nbody = {body!r}\n"
        f'answer = httpx.post("{url}/summarize", json=body{key}, timeout=60)\n'
        'print(answer.raise_for_status().json()["summary"])'
    )
