"""Proof of endurance: faults at random, hour after hour, and what must always hold is checked all along.

`node` is a whole simulated node in virtual time, `nvml` the driver alone, call by call; `process` is the
real process among real ones. `docs/endurance.md` says what was run and what came of it.
"""
