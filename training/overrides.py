"""What was typed after `python -m training.train`: checked against the keys that there are, with the nearest named."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
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
    choices: dict[str, list[str]] = {}
    for choice in overrides:
        group = choice.key_or_group
        if (_CONFIGS / group).is_dir():
            names = sorted(path.stem for path in (_CONFIGS / group).glob("*.yaml"))
            choices[group] = _chosen(choice, names)
            for name in choices[group]:
                if name not in names:
                    raise TrainingError(f"{choice.input_line}: no such choice{suggestion(name, names)}")
    known = _known_keys(choices)
    for override in overrides:
        key = override.key_or_group
        if key not in choices and key not in known:
            raise TrainingError(f"{override.input_line}: no such key{suggestion(key, sorted(known))}")


def typed_output(arguments: Sequence[str]) -> Path | None:
    """The folder of `output=FOLDER`, if a run will be made there: not with `--help` and its like, nor a sweep."""
    if any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments):
        return None
    typed = [argument for argument in arguments if argument.startswith("output=")]
    try:
        one = OverridesParser.create().parse_overrides(typed[-1:])
    except HydraException:
        return None
    return Path(str(one[0].value())) if one and not one[0].is_sweep_override() and "${" not in typed[-1] else None


def shown_overrides(overrides: Sequence[str]) -> list[str]:
    """Those that another machine can repeat: paths of this one are left out."""
    return [override for override in overrides if not override.lstrip("+~").startswith(_PLACES)]


def _chosen(choice: Override, names: list[str]) -> list[str]:
    """One, or with `-m` several: `model=tiny,small`, `model=glob(*)`."""
    if choice.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return names
    return list(choice.sweep_string_iterator()) if choice.is_sweep_override() else [str(choice.value())]


def _known_keys(choices: Mapping[str, Sequence[str]]) -> set[str]:
    names: set[str] = set()
    with initialize_config_dir(str(_CONFIGS), version_base=None):
        for one in product(*([f"{group}={name}" for name in chosen] for group, chosen in choices.items())):
            config = compose("train", overrides=list(one))
            names |= {name for name, _ in flat(OmegaConf.to_container(config, resolve=False))}
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}
