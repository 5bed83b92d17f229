"""What is minimised and what is stepped: losses, parameter groups, schedules, low-rank changes."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from model.network.leximind import LexiMind
from model.tasks import Head
from support.training_runs import trainer
from training.data.batches import IGNORED
from training.errors import TrainingError
from training.network.initialise import fold_queries
from training.optimization.losses import LossConfig, asymmetric_loss, distance, head_loss, label_weights
from training.optimization.optimizers import ScheduleConfig, learning_rate_scale

PLAIN = LossConfig(1, {}, {}, 0, 0, 0, 0, 0)


def test_asymmetric_loss_without_focus_is_cross_entropy() -> None:
    logits = torch.randn(6, 4, requires_grad=True)
    truth = (torch.rand(6, 4) > 0.5).float()
    expected = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    assert torch.allclose(asymmetric_loss(logits, truth, torch.ones(4), PLAIN), expected, atol=1e-6)


def test_focus_looks_away_from_easy_negatives() -> None:
    focused = LossConfig(1, {}, {}, 0, 0, 0, 4, 0.05)
    logits = torch.tensor([[-4.0, 3.0]], requires_grad=True)  # an easy negative (p .018) and a hard one
    loss = asymmetric_loss(logits, torch.zeros(1, 2), torch.ones(2), focused)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss[0, 0] == 0
    assert loss[0, 1] > 1
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_rare_emotions_weigh_more(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run")
    rows = [row.labels["emotions"] for row in run.mixture.streams["emotions"][0].rows]
    even, rare = (label_weights(rows, run.validation.tasks.head("emotions"), power) for power in (0.0, 0.5))
    assert (even == 1).all()
    assert rare[18] > rare[17] > 1  # love is in a fifth of the rows, joy in two fifths


def test_rare_labels_weigh_more_where_a_text_has_one() -> None:
    head = Head("ticket", "single_label", ("bill", "bug", "praise"))
    rows = [(0,)] * 6 + [(1,)] * 2 + [(2,)]
    assert label_weights(rows, head, 0.0).tolist() == [1, 1, 1]
    assert label_weights(rows, head, 1.0).tolist() == [0.5, 1.5, 3.0]
    logits, known = torch.randn(3, 3), torch.tensor([0, 2, IGNORED])
    weights = label_weights(rows, head, 1.0)
    expected = (F.cross_entropy(logits[:2], known[:2], reduction="none") * torch.tensor([0.5, 3.0])).sum() / 3.5
    torch.testing.assert_close(head_loss(logits, known, head.kind, weights, PLAIN), expected)


def test_the_distance_is_least_where_nothing_has_changed() -> None:
    other = torch.randn(5, 3)
    for kind in ("single_label", "multi_label"):
        logits = other.clone().requires_grad_()
        distance(logits, other, kind).backward()  # type: ignore[arg-type, no-untyped-call]
        assert logits.grad is not None
        assert logits.grad.abs().max() < 1e-7
    several = torch.distributions.Bernoulli(logits=other)
    torch.testing.assert_close(distance(other, other, "multi_label"), several.entropy().sum(1).mean())
    one = torch.distributions.Categorical(logits=other)
    torch.testing.assert_close(distance(other, other, "single_label"), one.entropy().mean())


def test_a_head_that_is_kept_whole_stays_where_it_was(data: Path, tmp_path: Path) -> None:
    before = trainer(data, tmp_path / "before", "loop.steps=1")
    before.run()
    init, common = f"init_from={tmp_path / 'before' / 'checkpoint'}", ("loop.steps=8", "optimizer.lr=0.003")
    changed = {}
    for share in (0, 1):
        run = trainer(data, tmp_path / f"kept-{share}", init, *common, f"loss.keep.emotions={share}")
        batch = run.mixture.streams["emotions"][0].next()
        logits = []
        for step in range(2):
            with torch.no_grad():
                states = run.objective.model.eval().encode(batch.input_ids, batch.encoder_mask)
                logits.append(run.objective.model.classify(states, batch.encoder_mask, ["emotions"])["emotions"])
            if not step:
                run.run()
        changed[share] = (logits[1] - logits[0]).abs().mean()
        assert not any("before" in name for name in run.objective.state_dict())
    assert changed[1] < 0.5 * changed[0]


def test_only_what_init_from_has_can_be_kept(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss\.keep: init_from has no head emotions"):
        trainer(data, tmp_path / "run", "loss.keep.emotions=0.5")
    with pytest.raises(TrainingError, match=r"loss\.keep\.emotions is 1\.5; it must lie in \[0, 1\]"):
        trainer(data, tmp_path / "run", "loss.keep.emotions=1.5")


def test_decay_only_on_hidden_matrices_and_heads_at_their_own_rate(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "optimizer.head_lr=1e-3")
    names = {id(p): name for name, p in run.objective.model.named_parameters()}
    for group in run.optimizers.parts[0].param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            decays = ".layers." in name and parameter.ndim == 2
            assert (group["weight_decay"] > 0) == decays, name
            assert (group["lr"] == 1e-3) == name.startswith("heads."), name


@pytest.mark.parametrize("name", ["cosine", "constant", "inverse_sqrt", "trapezoid"])
def test_schedule_warms_up_and_never_leaves_its_range(name: str) -> None:
    config = ScheduleConfig(name, 10, 0.1, 0.2)  # type: ignore[arg-type]
    scales = [learning_rate_scale(config, step, 100) for step in range(101)]
    assert scales[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(0 < scale <= 1 for scale in scales)
    assert scales[10:] == sorted(scales[10:], reverse=True)
    assert scales[100] == pytest.approx({"constant": 1.0, "inverse_sqrt": 0.1**0.5}.get(name, 0.1))


def test_lora_trains_little_and_is_merged_when_saved(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "lora.rank=2", "optimizer.lr=0.01", "loop.steps=2", "loop.precision=fp32")
    model = run.objective.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < sum(map(torch.numel, model.parameters())) / 3
    run.run()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("parametrizations.weight.0" in name or name.startswith("heads.") for name in changed)
    folded = fold_queries(model).eval()
    assert not any("parametrizations" in name for name in folded.state_dict())
    ids, mask = torch.tensor([[5, 6, 7, 1]]), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(folded.encode(ids, mask), model.eval().encode(ids, mask), atol=1e-6)


def test_folding_twice_leaves_the_model_whole(data: Path, tmp_path: Path) -> None:
    model = trainer(data, tmp_path / "run", "loop.scale_queries=true").objective.model
    one, two = fold_queries(model).state_dict(), fold_queries(model).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_parts_stay(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "loop.freeze=[encoder,embedding]", "loop.steps=1")
    model: LexiMind = run.objective.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run.run()
    changed = {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "decoder" in changed
    assert not changed & {"encoder", "embedding"}


def test_recomputed_layers_give_the_same_step(data: Path, tmp_path: Path) -> None:
    weights = []
    for name, option in (("kept", "false"), ("again", "true")):
        run = trainer(data, tmp_path / name, f"loop.checkpoint_layers={option}", "model.dropout=0.1")
        run.one_step()
        weights.append(run.objective.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_half_precision_is_scaled(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "loop.precision=fp16")
    assert run._precision.scaler.is_enabled()
    run.one_step()
    assert run.step == 1


def test_summaries_lose_what_cross_entropy_on_all_logits_says(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run", "model.dropout=0.0", "loss.label_smoothing=0.1")
    objective, batch = run.objective.train(), run.mixture.streams["summaries"][0].next()
    model = objective.model
    logits = model.decode(
        model.encode(batch.input_ids, batch.encoder_mask), batch.encoder_mask, batch.decoder_input_ids
    )
    plain = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, label_smoothing=0.1)
    torch.testing.assert_close(objective(batch)[1]["summarize"], plain)
