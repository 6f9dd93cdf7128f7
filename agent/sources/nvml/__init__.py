"""NVML: what the driver says of each GPU. Here are the only calls of nvidia-ml-py.

`source` keeps the session and finds the GPUs; `device` reads one of them, `mig` its instances, each by
an `asker` that remembers what is lacking. `fields`, `memory`, `gpm` and `xids` know one kind of answer
each; `errors` says what a refusal means, `pause` when to try again.
"""

from agent.sources.nvml.source import NvmlSource

__all__ = ["NvmlSource"]
