"""The reference colony: takes missions over the boundary, answers them from evidence, needs no model to do so."""

from importlib import metadata

try:
    VERSION = metadata.version("mission-root")
except metadata.PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0"
