"""The native kernels: what `transformers` gives in float32, near it in less; to the bit the same alone and batched."""

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.choices import PRECISIONS, Precision
from model.config import ModelConfig
from model.inference.backend import Backend
from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.kernels import library, sources, structs
from model.kernels.formats import FORMATS
from model.precision import computing_dtype
from support.models import CONFIG, random_model
from support.reference import BEAM, GREEDY, TOLERANCE, Pair, generate

pytestmark = pytest.mark.skipif(
    not library.is_available(),
    reason="no native kernels: no compiler, or a processor without AVX2",
)

LENGTHS = (30, 4, 17, 11)
HEADS = {"emotions": 28, "topic": 4}
WITH_HEADS = replace(CONFIG, heads=HEADS)


@pytest.fixture
def native(pair: Pair) -> NativeBackend:
    return NativeBackend(pair.model.state_dict(), pair.model.config, "float32")


def packed(precision: Precision, *, tied: bool = False, config: ModelConfig = CONFIG) -> NativeBackend:
    model = random_model(replace(config, tie_lm_head=tied)).to(computing_dtype(precision))
    return NativeBackend(model.state_dict(), model.config, precision)


def padded_sources() -> tuple[Tensor, Tensor]:
    ids = torch.randint(3, 90, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return ids * mask, mask


def step_logits(model: Backend, encoder_states: Tensor, mask: Tensor, tokens: list[int]) -> Tensor:
    """Logits (T, B, V) of feeding every document `tokens`."""
    cache = model.new_cache(1)
    cache.add(model.project_source(encoder_states, mask), mask, [len(tokens)] * len(encoder_states))
    return torch.stack([model.step(torch.full((len(encoder_states),), token), [cache]) for token in tokens])


def unpacked(keys: Tensor, values: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """The source's keys and values of a layer as (B, H, S, K), in int8 times their scales."""
    group, width = FORMATS[precision].group, CONFIG.d_kv
    batch, heads, stored, _ = keys.shape
    blocks = keys.reshape(batch, heads, stored // 32, -1)  # a block of 32 positions
    numbers = blocks[..., : 32 * width].reshape(batch, heads, stored // 32, width // group, 32, group)
    k = numbers.transpose(3, 4).reshape(batch, heads, stored, width)
    parts = values.view(batch, heads, -1, stored // group, 32, group)  # 32 numbers of each value
    v = parts.permute(0, 1, 3, 5, 2, 4).reshape(batch, heads, stored, -1)
    assert not v[..., width:].any()
    v = v[..., :width]
    if precision == "int8":
        extra = blocks[..., 32 * width :].reshape(batch, heads, -1, 3, 32, 4).transpose(2, 3)
        scale, value_scale = (extra[:, :, n].contiguous().view(torch.float32).reshape(*k.shape[:3], 1) for n in (0, 2))
        sums = extra[:, :, 1].contiguous().view(torch.int32).reshape(k.shape[:3])
        assert torch.equal(sums, 128 * k.sum(-1, dtype=torch.int32))
        return k * scale, v * value_scale
    return k, v


def test_encoder_states_are_those_of_transformers(
    pair: Pair, native: NativeBackend, sources: tuple[Tensor, Tensor]
) -> None:
    ids, mask = sources
    theirs = pair.reference.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(native.encode(ids, mask)[mask], theirs[mask], **TOLERANCE)


@pytest.mark.parametrize("options", GREEDY, ids=str)
def test_greedy_ids_are_those_of_transformers(
    pair: Pair, native: NativeBackend, sources: tuple[Tensor, Tensor], options: DecodingOptions
) -> None:
    ours = decode(native, native.encode(*sources), sources[1], [options] * 5)
    assert [list(result.token_ids) for result in ours] == generate(pair, sources, options)[0]


@pytest.mark.parametrize("options", BEAM, ids=str)
def test_beam_ids_and_scores_are_those_of_transformers(
    pair: Pair, native: NativeBackend, sources: tuple[Tensor, Tensor], options: DecodingOptions
) -> None:
    ours = decode(native, native.encode(*sources), sources[1], [options] * 5)
    theirs, scores = generate(pair, sources, options)
    assert [list(result.token_ids) for result in ours] == theirs
    assert scores is not None
    torch.testing.assert_close(torch.tensor([result.score for result in ours]), scores, **TOLERANCE)


@torch.inference_mode()
def test_logits_are_those_of_the_torch_step() -> None:
    ids, mask = padded_sources()
    plain = TorchBackend(random_model(CONFIG))
    encoder_states = plain.encode(ids, mask)
    tokens = torch.arange(40).tolist()
    torch.testing.assert_close(
        step_logits(packed("float32"), encoder_states, mask, tokens),
        step_logits(plain, encoder_states, mask, tokens),
        **TOLERANCE,
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@torch.inference_mode()
def test_less_precise_logits_stay_near(precision: Precision, tied: bool) -> None:
    ids, mask = padded_sources()
    plain = TorchBackend(random_model(replace(CONFIG, tie_lm_head=tied)))
    model = packed(precision, tied=tied)
    assert model.precision == precision
    encoder_states = plain.encode(ids, mask)
    exact = step_logits(plain, encoder_states, mask, [0, 5, 9, 7])
    error = (
        step_logits(model, encoder_states.to(computing_dtype(precision)), mask, [0, 5, 9, 7]) - exact
    ).norm() / exact.norm()
    assert 0 < float(error) < (0.05 if precision == "bfloat16" else 0.1)


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_a_row_alone_is_the_row_of_a_batch_to_the_bit(precision: Precision) -> None:
    """Nothing else decides: neither how many rows there are nor how far the others' sources reach."""
    model = packed(precision)
    ids, mask = padded_sources()
    encoder_states = model.encode(ids, mask)
    tokens = torch.arange(20).tolist()
    together = step_logits(model, encoder_states, mask, tokens)
    for row, length in enumerate(LENGTHS):
        alone = step_logits(model, encoder_states[row : row + 1, :length], mask[row : row + 1, :length], tokens)
        assert torch.equal(alone[:, 0], together[:, row])
    many = step_logits(model, encoder_states.repeat(9, 1, 1), mask.repeat(9, 1), tokens)  # 36 rows: several tiles
    assert torch.equal(many, together.repeat(1, 9, 1))


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_states_alone_are_the_states_of_a_batch_to_the_bit(precision: Precision) -> None:
    """Also of documents longer than one group of rows, of one token, and past the table of positions."""
    model = packed(precision, config=WITH_HEADS)
    lengths = (500, 1, 33, 260, 32, 200, 7)
    ids = torch.randint(3, 90, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(5))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    together = model.encode(ids, mask)
    sources = model.project_source(together, mask)
    scores = model.classify(together, mask, HEADS)
    assert bool(together.isfinite().all())
    for row, length in enumerate(lengths):
        alone = model.encode(ids[row : row + 1, :length], mask[row : row + 1, :length])
        assert torch.equal(alone[0], together[row, :length])
        for head, logits in model.classify(alone, mask[row : row + 1, :length], HEADS).items():
            assert torch.equal(logits[0], scores[head][row])
        for own, theirs in zip(model.project_source(alone, mask[row : row + 1, :length]), sources, strict=True):
            stored = own[0].shape[2]  # in whole blocks of positions
            assert length <= stored < length + 32
            assert torch.equal(own[0][0], theirs[0][row, :, :stored])
            assert torch.equal(own[1][0], theirs[1][row, :, :stored])


@torch.inference_mode()
def test_states_and_keys_are_those_of_torch() -> None:
    model, plain = packed("float32"), TorchBackend(random_model(CONFIG))
    ids, mask = padded_sources()
    mask[0, 5:9] = False  # masked inside the source
    encoder_states = plain.encode(ids, mask)
    torch.testing.assert_close(model.encode(ids, mask)[mask], encoder_states[mask], **TOLERANCE)
    for ours, theirs in zip(
        model.project_source(encoder_states, mask), plain.project_source(encoder_states, mask), strict=True
    ):
        for own, other in zip(unpacked(*ours, "float32"), theirs, strict=True):
            own = own[:, :, : mask.shape[1]].transpose(1, 2)
            torch.testing.assert_close(own[mask], other.transpose(1, 2)[mask], **TOLERANCE)
            assert not own[~mask].any()


@torch.inference_mode()
def test_int8_keys_are_near_with_a_scale_for_each_head_and_position() -> None:
    """However large another position's numbers are."""
    model = packed("int8")
    ids, mask = padded_sources()
    encoder_states = model.encode(ids, mask)
    encoder_states[0, 3] *= 100.0
    exact = packed("bfloat16").project_source(encoder_states, mask)
    for ours, theirs in zip(model.project_source(encoder_states, mask), exact, strict=True):
        assert ours[0].dtype == ours[1].dtype == torch.int8
        for numbers, near in zip(unpacked(*ours, "int8"), unpacked(*theirs, "bfloat16"), strict=True):
            error = (numbers - near.float()).norm(dim=-1) / near.float().norm(dim=-1).clamp(min=1e-6)
            assert float(error.max()) < 0.1  # the weights' and activations' levels count too
            assert not numbers[:, :, : mask.shape[1]].transpose(1, 2)[~mask].any()


@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_threads_change_nothing(precision: Precision) -> None:
    model = packed(precision)
    ids, mask = padded_sources()
    encoder_states = model.encode(ids, mask)
    one = step_logits(model, encoder_states, mask, [0, 5, 9])
    try:
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            assert torch.equal(model.encode(ids, mask), encoder_states)
            assert torch.equal(step_logits(model, encoder_states, mask, [0, 5, 9]), one)
    finally:
        torch.set_num_threads(1)


@torch.inference_mode()
def test_masked_tokens_inside_a_source_count_nothing() -> None:
    model, plain = packed("float32", config=WITH_HEADS), TorchBackend(random_model(WITH_HEADS))
    ids, mask = padded_sources()
    mask[0, 5:9] = False
    encoder_states = plain.encode(ids, mask)
    tokens = [0, 5, 9, 7]
    torch.testing.assert_close(
        step_logits(model, encoder_states, mask, tokens), step_logits(plain, encoder_states, mask, tokens), **TOLERANCE
    )
    scores = (one.classify(encoder_states, mask, HEADS) for one in (model, plain))
    torch.testing.assert_close(*scores, **TOLERANCE)


def test_structs_are_those_of_the_kernels() -> None:
    """A field more or less on one side would shift all that follow."""
    loaded = library.library()
    assert loaded is not None
    names = ("Linear", "EncoderLayer", "Encoder", "DecoderLayer", "Decoder", "Cache")
    for struct in (getattr(structs, name) for name in names):
        assert ctypes.c_int64.in_dll(loaded, f"leximind_sizeof_{struct.__name__}").value == ctypes.sizeof(struct)


@torch.inference_mode()
def test_stages_of_a_step_take_time() -> None:
    model = packed("float32")
    ids, mask = padded_sources()
    before = library.stage_seconds()
    step_logits(model, model.encode(ids, mask), mask, [0, 5])
    after = library.stage_seconds()
    assert set(after) == set(library.STAGES)
    assert all(after[stage] > before[stage] for stage in after)


def test_kernels_of_other_sources_are_refused(tmp_path: Path) -> None:
    """As after a change that was not compiled: with other arguments they would compute whatever lies in memory."""
    copied = tmp_path / "kernels"
    shutil.copytree(Path(sources.__file__).parent, copied)
    code = (
        "from pathlib import Path; from model.kernels import builds, library, sources;"
        f"sources.__file__ = {str(copied / 'sources.py')!r}; builds._FOLDER = Path({str(copied)!r});"
        "print(library.library() is None)"
    )

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"import logging; logging.basicConfig(); {code}"]
        paths = os.pathsep.join(filter(None, sys.path))
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths}
        )

    assert run().stdout == "False\n"
    with (copied / "numbers.h").open("a") as header:
        header.write("// changed\n")
    refused = run()
    assert refused.stdout == "True\n"
    assert "compiled from other sources" in refused.stderr
