"""The version of what is running."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("leximind")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "unknown"
