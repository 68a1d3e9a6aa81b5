"""Error types, and the messages that users see.

LlmpqError
├── InputError          a file, an option or a field says something that cannot be
├── InfeasibleError     nothing meets the constraints: memory or quality is short
├── CertificateError    a plan's certificate does not prove what it states
└── ExecutionError      a stage died, hung or ran out of memory while carrying out a plan

InternalError is none of them: llmpq itself is at fault, whatever the input.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LlmpqError(Exception):
    r"""An expected failure: one message that says where, what was expected and what was found.

    The message is no page, whatever it quotes, and can be written anywhere: bytes of a file's name
    that are no UTF-8 stand in it as ``\xff``.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(encodable(message)))


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


LONGEST_MESSAGE_CHARACTERS = 2000


def _shortened(message: str) -> str:
    if len(message) <= LONGEST_MESSAGE_CHARACTERS:
        return message
    half = LONGEST_MESSAGE_CHARACTERS // 2 - 3
    return f"{message[:half]} ... {message[-half:]}"


def encodable(text: str) -> str:
    r"""Return a text that UTF-8 can encode: bytes of names that are no UTF-8 shown as ``\xff``."""
    try:
        text.encode()
    except UnicodeEncodeError:
        named = text.encode("utf-8", "surrogateescape") if _is_escaped(text) else b""
        return named.decode("utf-8", "backslashreplace") or text.encode(
            "utf-8", "backslashreplace"
        ).decode("utf-8")
    return text


def _is_escaped(text: str) -> bool:
    """Return whether all lone surrogates are the bytes of a name that the system gave."""
    return all("\udc80" <= letter <= "\udcff" for letter in text if "\ud800" <= letter <= "\udfff")


@contextmanager
def library_errors(where: str) -> Iterator[None]:
    """Turn whatever a library raises for damaged input into one InputError.

    For libraries that document no types of errors: tokenizers raises bare exceptions, and where
    its Rust code panics something that is none (``PanicException``, of no importable module).
    Interrupts, exits and our own errors pass.

    Raises:
        InputError: ``where``, and what the library said.
    """
    try:
        yield
    except LlmpqError:
        raise
    except Exception as error:
        raise _of_library(where, error) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise _of_library(where, error) from None


def _of_library(where: str, error: BaseException) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{where}: {reason if len(reason) <= 400 else reason[:397] + '...'}")
