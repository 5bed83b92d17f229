"""How long a proof takes: seconds by default, minutes where `PROOF=full` (`make proof`)."""

import os
from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

FULL = os.environ.get("PROOF") == "full"
only_in_full = pytest.mark.skipif(not FULL, reason="one of several of its kind that take long; make proof runs all")


def depth(quick: T, full: T) -> T:
    """What this run takes of the two."""
    return full if FULL else quick


def examples(quick: int, full: int) -> settings:
    """So many examples of a property: the same ones each time where the run is quick, new ones where it is full."""
    return settings(
        max_examples=depth(quick, full), derandomize=not FULL, database=None, deadline=None, suppress_health_check=[]
    )
