"""The mathematics: pure functions of values. Nothing here reads, waits or remembers."""
