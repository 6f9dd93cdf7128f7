"""From windows of readings to verdicts: functions of values.

Anyone can call `assess_engine` and `assess_gpu` at a prompt with the readings of last night's incident and
get last night's verdict.
"""

from agent.judgement.engine import EngineFacts, assess_engine, attribute_window
from agent.judgement.gpu import GpuFacts, assess_gpu, clock_ratios

__all__ = ["EngineFacts", "GpuFacts", "assess_engine", "assess_gpu", "attribute_window", "clock_ratios"]
