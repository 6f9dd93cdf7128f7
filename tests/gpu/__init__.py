"""The agent against a real GPU: `make gpu-check`."""
