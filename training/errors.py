"""Every exception that training raises for a mistake of its user."""


class TrainingError(Exception):
    """A mistake that the caller can mend; the message says the value, the limit and the remedy."""


class DataError(TrainingError):
    """A data folder, file or row that cannot be used; the message names file and line."""


class ResumeError(TrainingError):
    """A training state that is missing, damaged, or of another run."""
