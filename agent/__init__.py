"""roofline-agent: where every GPU second goes, measured against the roofline model."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("roofline-agent")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+uninstalled"
