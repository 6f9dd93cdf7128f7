"""A GPU node with serving engines, simulated event by event.

It shares no mathematics with `agent.roofline` (a test holds this): step times come from measured
data, so that what the agent concludes about it can be wrong, and is therefore worth testing.
"""
