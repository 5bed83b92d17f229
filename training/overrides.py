"""What was typed after `python -m training.train`: checked against the keys that there are, with the nearest named."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from training.config import flat, suggestion
from training.errors import TrainingError

_CONFIGS = Path(__file__).parent / "configs"
_PLACES = ("output", "init_from", "resume_from", "data.root", "data.tokenizer", "tracking.uri", "hydra.")


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse a `key=value` whose key or group choice is not there.

    Raises:
        TrainingError: names it and suggests the nearest. Other mistakes are left to Hydra.
    """
    try:
        typed = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    except HydraException:
        return
    overrides = [one for one in typed if one.type == OverrideType.CHANGE and not one.key_or_group.startswith("hydra.")]
    choices = [one for one in overrides if (_CONFIGS / one.key_or_group).is_dir()]
    for choice in choices:
        names = sorted(path.stem for path in (_CONFIGS / choice.key_or_group).glob("*.yaml"))
        if choice.value() not in names:
            raise TrainingError(f"{choice.input_line}: no such choice{suggestion(str(choice.value()), names)}")
    known = _known_keys(choices)
    for override in overrides:
        key = override.key_or_group
        if override not in choices and key not in known:
            raise TrainingError(f"{override.input_line}: no such key{suggestion(key, sorted(known))}")


def shown_overrides(overrides: Sequence[str]) -> list[str]:
    """Those that another machine can repeat: paths of this one are left out."""
    return [override for override in overrides if not override.lstrip("+~").startswith(_PLACES)]


def _known_keys(choices: Sequence[Override]) -> set[str]:
    with initialize_config_dir(str(_CONFIGS), version_base=None):
        config = compose("train", overrides=[str(choice.input_line) for choice in choices])
    names = [name for name, _ in flat(OmegaConf.to_container(config, resolve=False))]
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
