"""The page in a real browser, on a real service."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.choices import BUNDLED
from support.documents import docx, pdf
from support.servers import READY_WITHIN_S, Server

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on PATH"),
    pytest.mark.skipif(not BUNDLED.is_dir(), reason="there is no bundled checkpoint"),
]

NEWS = "The council of Brookfield will close the old bridge for two years. Mayor Anna Keller said it costs 4 million."
# Where it is an error not to be found within a test: of a machine that has other things to do.
WITHIN_MS = 60_000


@contextlib.contextmanager
def demo(*flags: str, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The address of `leximind demo`, once it answers, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "demo", "--port", str(port), *flags]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env={**os.environ, **paths, **environment}) as process:
        try:
            give_up = time.monotonic() + READY_WITHIN_S
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/").is_success:
                        break
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def service(serve_shared: Callable[..., Server]) -> Server:
    return serve_shared("--checkpoint", str(BUNDLED), "--api-keys", "secret")


@pytest.fixture(scope="module")
def proxy() -> Iterator[socket.socket]:
    """Where everything goes that the page's process would fetch from elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture(scope="module")
def address(service: Server, proxy: socket.socket) -> Iterator[str]:
    elsewhere = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), elsewhere)
    with demo("--url", service.url, LEXIMIND_API_KEY="secret", **proxies) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    contexts = []

    def run(url: str = address, **options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(WITHIN_MS)
        page.goto(url)
        page.wait_for_selector("#lm-analyze")
        return page

    yield run
    for context in contexts:
        context.close()


def analyze(page: Any, text: str) -> None:
    page.fill("#lm-text textarea", text)
    page.click("#lm-analyze")


def colour(page: Any, selector: str) -> str:
    found: str = page.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor")
    return found


def test_a_text_is_answered_and_nothing_is_fetched_from_elsewhere(
    open_page: Callable[..., Any], address: str, proxy: socket.socket
) -> None:
    page = open_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_selector("#lm-analyze")
    analyze(page, NEWS)
    sentence = page.wait_for_selector(".lm-sentence")
    assert "Brookfield" in page.inner_text("#lm-summary")
    plain = colour(page, "#lm-passage-0")
    sentence.hover()
    assert colour(page, "#lm-passage-0") != plain
    assert page.locator("#lm-emotions .lm-label").count() == 6
    assert page.locator("#lm-emotions .lm-threshold").count() == 6
    assert page.locator("#lm-topic .lm-found").count() == 1
    assert "tokens written" in page.inner_text("#lm-facts")
    page.get_by_text("The same by REST").click()
    assert "/summarize" in page.inner_text("#lm-curl")
    assert "Bearer $LEXIMIND_API_KEY" in page.inner_text("#lm-curl").replace("\n", "")
    assert "secret" not in page.content()
    assert {"/".join(url.split("/")[:3]) for url in asked if not url.startswith(("data:", "blob:"))} == {address}
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_the_keyboard_leads_from_a_sentence_to_its_passage(open_page: Callable[..., Any]) -> None:
    page = open_page()
    analyze(page, NEWS)
    page.wait_for_selector(".lm-sentence")
    plain = colour(page, "#lm-passage-0")
    page.focus("#lm-analyze")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('lm-sentence')"):
            break
    assert page.evaluate("document.activeElement.classList.contains('lm-sentence')")
    assert colour(page, "#lm-passage-0") != plain


def test_markup_in_a_text_stays_text(open_page: Callable[..., Any]) -> None:
    page = open_page()
    text = f'<img src=x onerror="window.broken=1"><b id="bold">Note</b>: {NEWS}'
    analyze(page, text)
    page.wait_for_selector(".lm-sentence")
    assert text in page.inner_text(".lm-source")
    assert page.query_selector("#bold") is None
    assert page.evaluate("window.broken") is None


@pytest.mark.parametrize(("name", "content"), [("a.pdf", pdf(NEWS)), ("a.docx", docx(NEWS)), ("a.txt", NEWS.encode())])
def test_a_file_fills_the_text(open_page: Callable[..., Any], name: str, content: bytes) -> None:
    page = open_page()
    page.set_input_files("input[type=file]", {"name": name, "mimeType": "application/octet-stream", "buffer": content})
    page.wait_for_function("text => document.querySelector('#lm-text textarea').value === text", arg=NEWS)


def test_what_goes_wrong_is_said_in_words(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.set_input_files("input[type=file]", {"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"no pdf"})
    page.get_by_text("a.pdf cannot be read as pdf").wait_for()
    page.click("#lm-analyze")
    page.get_by_text("There is no text.").wait_for()
    analyze(page, "a" * 200_001)
    page.locator("#lm-summary .lm-failure", has_text="200,000").or_(
        page.locator("#lm-summary .lm-failure", has_text="200000")
    ).wait_for()
    with demo("--url", "http://127.0.0.1:9") as (url, _):
        page = open_page(url)
        page.get_by_text("The service does not answer.").first.wait_for()
        analyze(page, NEWS)
        page.locator("#lm-summary", has_text="The service does not answer.").wait_for()


def test_a_long_text_has_a_timeline(open_page: Callable[..., Any]) -> None:
    page = open_page(color_scheme="dark")
    analyze(page, "\n\n".join([f"Part {number}. {NEWS}" for number in range(40)]))
    page.wait_for_selector(".lm-timeline")
    assert page.locator(".lm-timeline thead th").count() > 3
    assert page.locator(".lm-timeline .lm-single_label tr").count() == 4
    assert page.locator(".lm-timeline .lm-multi_label tr").count() == 6


def test_a_phone_shows_all_of_it(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 390, "height": 800})
    analyze(page, NEWS)
    page.wait_for_selector(".lm-sentence")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_by_itself_it_starts_a_service_and_ends_it() -> None:
    environment = {"LEXIMIND_CHECKPOINT": str(BUNDLED), "LEXIMIND_THREADS": "1", "LEXIMIND_DEVICE": "cpu"}
    with demo(**environment) as (url, process):
        assert "LexiMind" in httpx.get(url).text
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
    assert process.wait(60) in (0, -signal.SIGTERM)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
