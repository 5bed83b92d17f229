"""Every exception that this package raises for a mistake of its user; the tree stands here."""


class ModelError(Exception):
    """A mistake that the caller can correct; the message says the value, the limit and the remedy."""


class ConfigError(ModelError):
    """A model configuration that describes no possible network."""


class OptionsError(ModelError):
    """A decoding option outside its range, or two options that exclude each other."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CheckpointError(ModelError):
    """A checkpoint folder that is missing, damaged, incomplete or of another program."""


class DeviceError(ModelError):
    """A device that this machine does not offer."""


class TokenizerError(ModelError):
    """A tokenizer file that cannot be read or does not fit the model."""
