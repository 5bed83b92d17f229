"""The version of what is running, and its licence."""

from importlib.metadata import PackageNotFoundError, version

LICENSE = "MIT"  # of the code; a checkpoint has terms of its own

try:
    VERSION = version("leximind")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "unknown"
