"""One cached step against the whole forward pass: positions, dtypes, padding; what decoding rests on."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.inference.kv_cache import KVCache
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from support.models import CONFIG, random_model

# float32 through three layers, other kernels for one row than for many: a few units in the last place.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}

Batch = tuple[Tensor, Tensor, Tensor]


def stepped(model: LexiMind, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
    """Logits of every target position, one cached step at a time: (B, T, V)."""
    backend = TorchBackend(model)
    cache = backend.new_cache(1)
    cache.add(backend.project_source(backend.encode(ids, mask), mask), mask, [targets.shape[1]] * len(targets))
    return torch.stack([backend.step(column, [cache]) for column in targets.unbind(1)], dim=1)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Sources (3, 30), their mask, targets (3, 40): both pass the 16 positions of the table."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(30) < torch.tensor([30, 1, 17])[:, None]
    ids = torch.randint(3, 90, (3, 30), generator=generator) * mask
    targets = torch.randint(3, 90, (3, 40), generator=generator)
    return ids, mask, targets


@pytest.mark.parametrize("num_positions", [0, 16, 64])
@pytest.mark.parametrize("tied", [False, True])
def test_cached_step_equals_the_uncached_forward(batch: Batch, num_positions: int, tied: bool) -> None:
    ids, mask, targets = batch
    model = random_model(replace(CONFIG, num_positions=num_positions, tie_lm_head=tied, scale_lm_head=tied))
    torch.testing.assert_close(stepped(model, ids, mask, targets), model(ids, mask, targets), **TOLERANCE)


def test_bf16_step_is_near_its_forward_and_both_near_float32(
    batch: Batch,
) -> None:
    ids, mask, targets = batch
    exact = random_model(CONFIG)(ids, mask, targets)
    half = random_model(CONFIG).bfloat16()
    # bf16 keeps 8 bits: 2**-8 a rounding, some thirty of them in a row; the logits' own spread is the measure.
    limit = 0.1 * exact.std()
    for logits in (half(ids, mask, targets), stepped(half, ids, mask, targets)):
        assert logits.isfinite().all()
        assert (logits.float() - exact).square().mean().sqrt() < limit


def test_learned_positions_change_states_and_logits_up_to_the_end_of_the_table(
    batch: Batch,
) -> None:
    ids, mask, targets = batch
    model = random_model(CONFIG)
    states, logits = model.encode(ids, mask), model(ids, mask, targets)
    model.decoder_positions[15] += 1.0
    moved = model(ids, mask, targets)
    assert torch.equal(moved[:, :15], logits[:, :15])
    assert not torch.isclose(moved[:, 15:], logits[:, 15:]).all(-1).any()
    model.encoder_positions[15] += 1.0
    changed = ~torch.isclose(model.encode(ids, mask), states).all(-1)
    assert changed[mask].view(-1).tolist() == [True] * 30 + [False] + [True] * 17  # the one-token source has no 15


def test_without_a_table_there_is_no_parameter_for_it() -> None:
    names = LexiMind(replace(CONFIG, num_positions=0)).state_dict().keys()
    assert not [name for name in names if "positions" in name]


def test_answers_of_a_source_do_not_depend_on_its_padding(
    batch: Batch,
) -> None:
    ids, mask, targets = batch
    model = random_model(replace(CONFIG, heads={"emotions": 5, "topic": 4}))
    for row, length in enumerate(mask.sum(1).tolist()):
        alone = ids[row : row + 1, :length], mask[row : row + 1, :length]
        together = model.classify(model.encode(ids, mask), mask, model.heads)
        for name, logits in model.classify(model.encode(*alone), alone[1], model.heads).items():
            torch.testing.assert_close(logits[0], together[name][row], **TOLERANCE)
        torch.testing.assert_close(
            model(*alone, targets[row : row + 1])[0], model(ids, mask, targets)[row], **TOLERANCE
        )


@torch.inference_mode()
def test_joining_where_there_is_room_allocates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """New arrays at every join, made and dropped, once took more of a served second than encoding."""
    backend = TorchBackend(random_model(CONFIG))
    cache = backend.new_cache(1)
    cache.reserve(4, 60, 60)
    generation, made = cache.generation, KVCache._array
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(KVCache, "_array", lambda self, *size: sizes.append(size) or made(self, *size))
    for length in (5, 60, 30):
        ids, mask = torch.full((1, length), 7), torch.ones(1, length, dtype=torch.bool)
        cache.add(backend.project_source(backend.encode(ids, mask), mask), mask, [60])
    assert not sizes
    assert cache.generation == generation
    cache.reserve(5, 60, 60)
    assert sizes
    assert cache.generation == generation + 1
