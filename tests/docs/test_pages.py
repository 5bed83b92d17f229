"""Every command and snippet of the README and of docs/ runs, and prints what stands below it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import ANSWERS, NODE, PAGES, REPOSITORY, RUN, Reader, blocks_of, check, shared_server
from support.servers import Server

# Pages that others include, whose commands take a data folder, minutes of training, Docker or a cluster.
ELSEWHERE = {
    "training/README.md": "trains, on data that are not here; tests/training runs each command on little of it",
    "deploy/README.md": "needs Docker, Grafana or a cluster; tests/deploy checks each file, with a real Prometheus",
    "benchmarks/README.md": "measures for hours; tests/benchmarks runs the parts",
    "CONTRIBUTING.md": "make setup, check and test: it would run itself",
}
RUNNING = [page for page in PAGES if any(one.language in RUN and one.reason is None for one in blocks_of(page))]
NOT_RUN = [(page, one) for page in PAGES for one in blocks_of(page) if one.reason is not None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with shared_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING)
def test_commands_run_and_print_what_the_page_says(page: str, server: Server, tmp_path: Path) -> None:
    reader = Reader(tmp_path, server)
    try:
        for block in blocks_of(page):
            if block.language not in RUN or block.reason is not None:
                continue
            if block.language == "javascript" and NODE is None:
                continue  # listed below
            printed = reader.run(block)
            if block.answer is not None:
                check(block.answer, printed)
    finally:
        reader.close()


@pytest.mark.parametrize("reason", [f"{page}: {one.text.split(chr(10))[0]}: {one.reason}" for page, one in NOT_RUN])
def test_what_is_not_run_says_why(reason: str) -> None:
    pytest.skip(reason)


@pytest.mark.parametrize("page", ELSEWHERE)
def test_what_other_pages_run_is_tested_elsewhere(page: str) -> None:
    assert (REPOSITORY / page).is_file()
    pytest.skip(f"{page}: {ELSEWHERE[page]}")


@pytest.mark.skipif(NODE is not None, reason="there is node")
def test_javascript_needs_node() -> None:
    pytest.skip("no node here: snippets in JavaScript are not run")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language_that_is_run_or_shown(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for block in blocks_of(page):
        assert block.language in (*RUN, *ANSWERS), f"{page}: {block.text[:60]!r}"
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {4}\S", outside), f"{page}: indented code is not run; fence it"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:app|benchmarks|deploy|docs|model|tests|training)/[\w./-]*)`", text):
        assert (REPOSITORY / name).exists(), f"{page}: {name}"
