"""Every exception that training raises for a mistake of its user; the tree stands here."""


class TrainingError(Exception):
    """A mistake that the caller can correct; the message says the value, the limit and the remedy."""


class DataError(TrainingError):
    """A data folder, file or row that cannot be used; the message names file and line."""


class DownloadError(TrainingError):
    """Data that cannot be fetched or have no place."""


class ResumeError(TrainingError):
    """A training state that is missing, damaged, or of another run."""


class NotFinite(TrainingError):
    """A loss or a gradient that is no number."""


class Interrupted(TrainingError):
    """The run was asked to stop, by the signal `number`, and has saved its state."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}; resume_from takes the run up again")
        self.number = number
