"""Error types, and the messages that users see.

LlmpqError
├── InputError          a file, an option or a field says something that cannot be
├── InfeasibleError     nothing meets the constraints: memory or quality is short
├── CertificateError    a plan's certificate does not prove what it states
└── ExecutionError      a stage died, hung or ran out of memory while carrying out a plan

InternalError is none of them: llmpq itself is at fault, whatever the input.
"""


class LlmpqError(Exception):
    """An expected failure: one message that says where, what was expected and what was found."""


class InputError(LlmpqError):
    """A file, an option or a field says something that cannot be."""


class InfeasibleError(LlmpqError):
    """Nothing meets the constraints: memory or quality is short, by what the message says."""


class CertificateError(LlmpqError):
    """A plan's certificate does not prove what it states."""


class ExecutionError(LlmpqError):
    """A stage died, hung or ran out of memory; what was finished until then is kept."""


class InternalError(Exception):
    """Two ways to compute one figure disagree: a fault of llmpq, not of its input."""
