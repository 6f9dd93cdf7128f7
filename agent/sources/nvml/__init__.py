"""NVML: what the driver says of each GPU. Here are the only calls of nvidia-ml-py.

`source` keeps the session and finds the GPUs, `device` asks one of them, `gpm` reads its profiling
counters, `errors` says what a refusal means.
"""

from agent.sources.nvml.source import NvmlSource

__all__ = ["NvmlSource"]
