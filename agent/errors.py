"""The agent's errors: one tree, translated at the edge where they arise."""


class AgentError(Exception):
    """Anything the agent can explain to its operator."""


class ConfigurationError(AgentError):
    """The configuration is wrong; carries every problem at once.

    `problems` are lines of the form ``dotted.path: what is wrong``.
    """

    def __init__(self, origin: str, problems: tuple[str, ...]) -> None:
        self.origin = origin
        self.problems = problems
        super().__init__("\n".join(f"{origin}: {problem}" for problem in problems))


class SourceError(AgentError):
    """An attempt to read a source failed.

    `reason` is one word from a small fixed set, fit for a label value (``refused``, ``timeout``,
    ``too_large``, ``malformed``, …). The message says what was being done and what to do next, and
    never quotes what the other side sent. `http_status` is that of an answer that was none.
    """

    def __init__(self, reason: str, message: str, *, http_status: int | None = None) -> None:
        self.reason = reason
        self.http_status = http_status
        super().__init__(message)


class SourceAbsentError(AgentError):
    """There is nothing to read here: no such hardware, library or call. Not a failure."""


class UnknownModelError(AgentError):
    """An architecture that the arithmetic does not know; the message says which part."""
