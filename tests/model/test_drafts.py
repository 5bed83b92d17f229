"""Drafts change no result: of what is proposed a document keeps what it would have chosen, whatever the options."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.choices import BUNDLED, PRECISIONS
from model.inference.backend import Backend
from model.inference.decoding.batch import DecodingBatch, decode
from model.inference.decoding.drafts import Candidate, CopyTracker, DraftPolicy, StepCost
from model.inference.decoding.options import DecodingOptions, DecodingResult
from model.inference.native_backend import NativeBackend
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.kernels.library import is_available
from model.precision import computing_dtype
from model.storage.checkpoint import load_served
from support.models import CONFIG, random_model
from support.reference import BEAM, GREEDY, Pair

needs_kernels = pytest.mark.skipif(
    not is_available(), reason="no native kernels: no compiler, or a processor without AVX2"
)
FIRST_BYTE = 10
SPELLED = replace(CONFIG, vocab_size=320, num_tokens=300)
BASE = DecodingOptions(max_new_tokens=30, no_repeat_ngram_size=0)
KINDS = (
    *GREEDY,
    *BEAM[:3],
    replace(BASE, no_repeat_ngram_size=2, repetition_penalty=1.4, min_new_tokens=6),
    replace(BASE, no_repeat_ngram_size=16, repetition_penalty=0.8),
    replace(BASE, max_new_tokens=2),
    replace(BASE, do_sample=True, temperature=1.3, top_k=0, seed=7),
    replace(BASE, do_sample=True, top_p=0.8, top_k=12, seed=8, no_repeat_ngram_size=3),
    replace(BASE, do_sample=True, temperature=0.7, seed=9, min_new_tokens=12, max_new_tokens=50),
)


@pytest.fixture(scope="module", params=[(precision, spelled) for precision in PRECISIONS for spelled in (False, True)])
def backend(request: pytest.FixtureRequest) -> NativeBackend:
    """Random, fond of its end token, and of bytes where its vocabulary has them."""
    if not is_available():
        pytest.skip("no native kernels: no compiler, or a processor without AVX2")
    precision, spelled = request.param
    model = random_model(SPELLED if spelled else CONFIG)
    pieces = tuple(range(FIRST_BYTE, FIRST_BYTE + 256)) if spelled else ()
    model.lm_head.weight[list(pieces)] *= 2.0
    model.lm_head.weight[1] *= 1.5
    return NativeBackend(model.to(computing_dtype(precision)).state_dict(), model.config, precision, Spelling(pieces))


def eager(backend: Backend) -> DecodingBatch:
    """Every step seems to take as long, so that all that can be drafted is."""
    return DecodingBatch(backend, clock=itertools.count().__next__)


def padded(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    ids = [
        torch.randint(3, 90, (1 + (number * 7) % 30,), generator=torch.Generator().manual_seed(number))
        for number in numbers
    ]
    rows = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return rows, rows != 0


def worn(token_ids: Sequence[int], seed: int) -> list[int]:
    """`token_ids` as a source that is copied, but not for long: some left out, some other, twice over."""
    choose = random.Random(seed)
    kept = [token for token in token_ids if choose.random() > 0.1]
    noise = range(3, FIRST_BYTE)  # no bytes, which would be characters that may be written
    return [choose.choice(noise) if choose.random() < 0.1 else token for token in [*kept, *token_ids]]


def source_like_its_summary(
    backend: Backend, states: Tensor, mask: Tensor, options: DecodingOptions, seed: int
) -> list[int]:
    """A source of much that is decoded with it; with characters of its own where the vocabulary has bytes."""
    characters = f"\u00fc{chr(0x4E00 + seed)}\U0001f600".encode() if backend.spelling.byte_pieces else b""
    own = [FIRST_BYTE + byte for byte in characters]
    [written] = decode(backend, states, mask, [options], DecodingBatch(backend, drafts=False), [own])
    return worn(written.token_ids, seed) + own


def check(backend: Backend, states: tuple[Tensor, Tensor], options: Sequence[DecodingOptions]) -> tuple[int, int]:
    """Decode without drafts, then with, of which the results are the same; gives those drafted and those right."""
    encoder_states, mask = states
    sources = [
        source_like_its_summary(backend, encoder_states[row : row + 1], mask[row : row + 1], option, row)
        for row, option in enumerate(options)
    ]
    expected = decode(backend, encoder_states, mask, options, DecodingBatch(backend, drafts=False), sources)
    batch = eager(backend)
    batch.add(range(len(options)), encoder_states, mask, options, sources)
    results: dict[int, DecodingResult] = {}
    streamed: dict[int, list[int]] = {key: [] for key in range(len(options))}
    num_drafted = num_accepted = 0
    while batch.num_rows:
        for step in batch.step():
            streamed[step.key] += step.token_ids
            assert step.key not in results, "it goes on after its end"
            if step.result is not None:
                results[step.key] = step.result
        num_drafted, num_accepted = num_drafted + batch.num_drafted, num_accepted + batch.num_accepted
    assert [results[key] for key in range(len(options))] == expected
    for key, option in enumerate(options):
        assert streamed[key] == ([] if option.num_beams > 1 else list(expected[key].token_ids))
    return num_drafted, num_accepted


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_results_are_those_without_drafts(backend: NativeBackend, options: DecodingOptions) -> None:
    ids, mask = padded(range(1, 6))
    states = backend.encode(ids, mask), mask
    kinds = [replace(options, seed=options.seed + number) for number in range(5)]
    num_drafted, num_accepted = check(backend, states, kinds)
    for row, kind in enumerate(kinds[:2]):
        alone = check(backend, (states[0][row : row + 1], mask[row : row + 1]), [kind])
        num_drafted, num_accepted = num_drafted + alone[0], num_accepted + alone[1]
    if options.num_beams > 1 or options.max_new_tokens < 3:  # nothing is known before the first token
        assert num_drafted == 0
    else:
        assert num_accepted > 0


def test_mixed_options_give_the_same_and_drafts_fail_too(backend: NativeBackend) -> None:
    ids, mask = padded(range(1, 2 * len(KINDS) + 1))
    num_drafted, num_accepted = check(backend, (backend.encode(ids, mask), mask), [*KINDS, *reversed(KINDS)])
    assert num_drafted > num_accepted > 50


@pytest.mark.parametrize("offset", range(4))
def test_drafts_end_with_their_step(backend: NativeBackend, offset: int) -> None:
    """Also where their document ends with it, beams go on alone, and one joins in a step that looks for no drafts."""
    ids, mask = padded([1, 2, 3])
    states, options = backend.encode(ids, mask), [BASE, replace(BEAM[0], max_new_tokens=60, min_new_tokens=50), BASE]
    expected = decode(backend, states, mask, options, DecodingBatch(backend, drafts=False))
    assert not any(set(result.token_ids) & set(backend.spelling.byte_pieces) for result in expected)
    batch, results, num_accepted = eager(backend), {}, 0

    def step() -> None:
        nonlocal num_accepted, results
        results |= {one.key: one.result for one in batch.step() if one.result is not None}
        num_accepted += batch.num_accepted

    for number in (0, 1):
        rows = slice(number, number + 1)
        batch.add([number], states[rows], mask[rows], options[rows], [expected[number].token_ids])
    while 0 not in results:
        step()
    right = num_accepted
    assert right > 0
    for _ in range(9 + offset):
        step()
    assert num_accepted == right
    batch.add([2], states[2:], mask[2:], options[2:], [expected[2].token_ids])
    while batch.num_rows:
        step()
    assert [results[key] for key in range(3)] == expected


@pytest.mark.parametrize("seed", range(2))
def test_documents_that_join_and_leave_change_nothing(backend: NativeBackend, seed: int) -> None:
    choose = random.Random(seed)
    waiting = {number: choose.choice(KINDS) for number in range(1, 25)}
    expected, sources = {}, {}
    for number, options in waiting.items():
        ids, mask = padded([number])
        states, plain = backend.encode(ids, mask), DecodingBatch(backend, drafts=False)
        sources[number] = (
            source_like_its_summary(backend, states, mask, options, number) if choose.random() < 0.8 else []
        )
        [expected[number]] = decode(backend, states, mask, [options], plain, [sources[number]])
    batch, joined, gone, finished = eager(backend), set(), set(), {}
    num_accepted = 0
    while len(finished) + len(gone) < len(expected):
        if numbers := choose.sample(sorted(waiting), k=min(len(waiting), choose.randint(0, 3))):
            ids, mask = padded(numbers)
            options = [waiting.pop(number) for number in numbers]
            batch.add(numbers, backend.encode(ids, mask), mask, options, [sources[number] for number in numbers])
            joined |= set(numbers)
        for _ in range(choose.randint(1, 4)):
            finished |= {step.key: step.result for step in batch.step() if step.result is not None}
            num_accepted += batch.num_accepted
        running = sorted(joined - gone - finished.keys())
        if running and choose.random() < 0.3:
            leaving = choose.sample(running, k=min(len(running), 2))
            batch.remove(leaving)
            gone |= set(leaving)
    assert batch.num_rows == 0
    assert num_accepted > 0
    assert finished == {number: expected[number] for number in finished}


@needs_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_shape_gives_the_same(pair: Pair, sources: tuple[Tensor, Tensor], precision: str) -> None:
    """In float32 that is what `transformers` gives, by `test_native.py`."""
    weights = {name: tensor.to(computing_dtype(precision)) for name, tensor in pair.model.state_dict().items()}
    native = NativeBackend(weights, pair.model.config, precision)
    _, num_accepted = check(native, (native.encode(*sources), sources[1]), [*GREEDY[:5], *GREEDY[-1:] * 2][:5])
    assert num_accepted > 0


@needs_kernels
def test_what_is_copied_takes_fewer_steps() -> None:
    """By the bundled model, which copies, and from the source itself."""
    bundled = load_served(BUNDLED, torch.device("cpu"), "float32")
    backend = bundled.backend
    text = (
        "The city council of Bristol voted on Tuesday to close the old harbour bridge to cars from next spring. "
        "Cyclists welcomed the decision, but shop owners nearby fear that they will lose customers."
    )
    source = bundled.tokenizer.encode_source(text, bundled.tasks.prompts["summarize"], 512)
    ids = torch.tensor([source])
    mask = torch.ones_like(ids, dtype=torch.bool)
    encoder_states = backend.encode(ids, mask)
    batches = DecodingBatch(backend, drafts=False), eager(backend)
    steps, results = [], []
    for batch in batches:
        batch.add([0], encoder_states, mask, [DecodingOptions(max_new_tokens=60)], [source])
        steps.append(0)
        while batch.num_rows:
            results += [step.result for step in batch.step() if step.result is not None]
            steps[-1] += 1
    assert results[0] == results[1]
    assert steps[1] < steps[0] / 3


def test_nothing_is_drafted_where_rows_depend_on_each_other() -> None:
    backend = TorchBackend(random_model(CONFIG))
    ids, mask = padded([1, 2])
    encoder_states = backend.encode(ids, mask)
    expected = decode(backend, encoder_states, mask, [BASE] * 2)
    batch = eager(backend)
    batch.add([0, 1], encoder_states, mask, [BASE] * 2, [one.token_ids for one in expected])
    while batch.num_rows:
        batch.step()
        assert batch.num_drafted == 0


def text_of(draft: str) -> list[int]:
    return list(map(ord, draft))


def test_a_draft_goes_on_after_the_longest_match_in_the_source() -> None:
    tracker = CopyTracker([5, 6, 7, 8, 20, 6, 7, 9, 1], end=1)
    assert tracker.match == (True, 0)
    assert tracker.draft(3) == ""
    tracker.extend([6])
    assert (tracker.match, text_of(tracker.draft(3))) == ((True, 1), [7, 8, 20])
    tracker.extend([7])
    assert (tracker.match, text_of(tracker.draft(2))) == ((True, 2), [8, 20])
    tracker.extend([9])  # the first place was wrong; another matches, and nothing is drafted past the end token
    assert (tracker.match, text_of(tracker.draft(5))) == ((True, 3), [])


def test_a_draft_goes_on_after_what_was_written_where_the_source_has_nothing() -> None:
    tracker = CopyTracker([5, 6, 1], end=1)
    tracker.extend([30, 31, 32, 30])
    assert (tracker.match, text_of(tracker.draft(9))) == ((False, 1), [31, 32, 30])
    tracker.extend([40])
    assert tracker.match[1] == 0
    tracker.extend([5])
    assert (tracker.match, text_of(tracker.draft(9))) == ((True, 1), [6])
    assert tracker.num_written == 6


def candidates(count: int) -> list[Candidate]:
    tracker = CopyTracker(range(100, 160), end=1)
    tracker.extend([100, 101, 102])
    return [Candidate(tracker, 50) for _ in range(count)]


def policy_at(fixed_s: float, token_s: float) -> DraftPolicy:
    policy = DraftPolicy()
    for num_tokens in (1, 9, 17) * 50:
        policy.cost.measure(num_tokens, fixed_s + token_s * num_tokens)
    return policy


def test_the_dearer_a_token_the_shorter_the_drafts() -> None:
    lengths = [len(policy_at(1.0, cost).plan(candidates(1), 1, 1)[0]) for cost in (0.0, 0.05, 0.2, 0.5, 2.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > 10
    assert lengths[-1] <= 1


def test_the_more_documents_the_shorter_the_drafts_and_none_where_the_step_is_full() -> None:
    policy = policy_at(1.0, 0.2)
    lengths = [len(policy.plan(candidates(count), count, count)[0]) for count in (1, 2, 4, 8, 16)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]
    assert policy.may_pay(1, 1)
    assert not policy.may_pay(64, 64)


def test_what_is_never_right_is_not_drafted_for_long_and_what_is_right_is_again() -> None:
    policy = policy_at(1.0, 0.1)
    lengths = []
    for right in (False, True):
        for _ in range(300):
            tracker = CopyTracker(range(100, 160), end=1)
            tracker.extend([100])
            [draft] = policy.plan([Candidate(tracker, 50)], 1, 1)
            policy.learn(tracker, range(101, 130) if right else [7])
        lengths.append(len(draft))
    assert lengths[0] == 0
    assert lengths[1] > 10


def test_no_draft_is_longer_than_there_is_room() -> None:
    [one] = candidates(1)
    assert policy_at(1.0, 0.0).plan([replace(one, room=2), replace(one, room=0)], 2, 2) == ["gh", ""]


def test_the_cost_of_a_step_follows_what_is_measured() -> None:
    cost = StepCost()
    assert cost.token_s / cost.fixed_s == pytest.approx(0.1)
    for _ in range(50):
        cost.measure(1, 1.1)
    assert cost.seconds(1) == pytest.approx(1.1, rel=0.01)
    assert cost.token_s / cost.fixed_s == pytest.approx(0.1, rel=0.01)  # nothing else was seen
    for num_tokens in range(1, 17):
        cost.measure(num_tokens, 1.0 + 0.5 * num_tokens)
    assert cost.token_s == pytest.approx(0.5, rel=0.1)
    before = cost.seconds(8)
    cost.measure(8, 1000.0)  # another process had the processor
    assert cost.seconds(8) < 1.3 * before
