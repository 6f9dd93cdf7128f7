"""One file a serving engine: how its own page becomes an `EngineReading`."""
