"""Everything that is read from outside: one module a source, all the I/O of the agent."""
