"""Limits on what is read and asked for, in one place; each is checked before memory is taken.

docs/limits.md is this table. What is refused here is larger than anything that is planned for, and
small enough that a file or an option of any content is answered within seconds and a gigabyte.
"""

from collections.abc import Mapping

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import KIB, MIB

LARGEST_NUMBER = 1e18
LEAST_POSITIVE = 1e-30

# ---- files

LARGEST_FILE_BYTES = 64 * MIB
LARGEST_YAML_BYTES = MIB
LARGEST_EXECUTION_BYTES = 1024 * MIB
LARGEST_TOKENIZER_BYTES = 256 * MIB
LARGEST_ARCHIVE_BYTES = 1024 * MIB
LARGEST_RECORD_BYTES = 16 * MIB
DEEPEST_NESTING = 64
MOST_JSON_CONTAINERS = 2_000_000
MOST_JSON_VALUES = 10_000_000
LONGEST_NUMBER_DIGITS = 4300
LONGEST_NAME_CHARACTERS = 200

# ---- measured rows

MOST_MEASURED_ROWS = 1_000_000
LONGEST_CELL_CHARACTERS = 256
LARGEST_TABLE_BYTES = 512 * MIB

# ---- what is planned for

MOST_LAYERS = 1000
MOST_DEVICES = 256
MOST_BATCH_REQUESTS = 4096
MOST_BATCH_TOKENS = 1_000_000
MOST_REQUEST_TOKENS = 10_000_000
MOST_TRACE_REQUESTS = 50_000_000
MOST_BUDGET_TOKENS = 1_048_576
MOST_SEQUENCES = 100_000
MOST_SERVED_TOKENS = 100_000_000
LEAST_RATE_PER_S = 1e-6
MOST_RATE_PER_S = 1e9
LONGEST_TRACE_S = 1e9
LEAST_CHARS_PER_TOKEN = 0.01
MOST_CHARS_PER_TOKEN = 1e6

MOST_WORKERS = 1024
MOST_RUNS = 1000

# ---- chat templates

TEMPLATE_CPU_S = 5
TEMPLATE_WALL_S = 60
TEMPLATE_BYTES = 512 * MIB
MOST_TEMPLATE_ENDS = 3

TABLE: tuple[tuple[str, str, str], ...] = (
    ("JSON, CSV or text file", f"{LARGEST_FILE_BYTES // MIB} MiB", "unpacked, where it is packed"),
    ("YAML file", f"{LARGEST_YAML_BYTES // MIB} MiB", "people write it"),
    ("result file of `llmpq deploy`", f"{LARGEST_EXECUTION_BYTES // MIB} MiB", ""),
    ("files of a tokenizer", f"{LARGEST_TOKENIZER_BYTES // MIB} MiB", "each"),
    (
        "archive of ServeGen's clients",
        f"{LARGEST_ARCHIVE_BYTES // MIB} MiB",
        "all files in it, unpacked",
    ),
    ("record of a trace", f"{LARGEST_RECORD_BYTES // MIB} MiB", "the file may be of any size"),
    ("levels of nesting", f"{DEEPEST_NESTING}", "of JSON and YAML"),
    ("objects and lists of a JSON file", f"{MOST_JSON_CONTAINERS:,}", ""),
    (
        "values of a JSON file",
        f"{MOST_JSON_VALUES:,}",
        "or one for every four characters, where that is more",
    ),
    (
        "numbers in our own files",
        f"{LARGEST_NUMBER:g}",
        f"either sign; where one must be positive, at least {LEAST_POSITIVE:g}",
    ),
    ("digits of a whole number", f"{LONGEST_NUMBER_DIGITS:,}", "Python's own limit"),
    ("characters of a name", f"{LONGEST_NAME_CHARACTERS}", "`--name`; printable ones only"),
    ("measured rows", f"{MOST_MEASURED_ROWS:,}", "CSV and parquet, counted as they are read"),
    ("characters of a text in a row", f"{LONGEST_CELL_CHARACTERS}", ""),
    ("texts of all measured rows", f"{LARGEST_TABLE_BYTES // MIB} MiB", "at 4 bytes a character"),
    ("layers of a model", f"{MOST_LAYERS:,}", ""),
    ("devices of a cluster", f"{MOST_DEVICES}", "`--count` of `llmpq cluster`, too"),
    ("requests of a batch", f"{MOST_BATCH_REQUESTS:,}", "`--batch`, lines of `--output-lengths`"),
    (
        "tokens of a prompt or output in a batch",
        f"{MOST_BATCH_TOKENS:,}",
        "`--prompt-tokens`, `--output-tokens`; the model's longest context is a limit, too",
    ),
    ("tokens of a prompt or output in a trace", f"{MOST_REQUEST_TOKENS:,}", ""),
    ("requests of a trace", f"{MOST_TRACE_REQUESTS:,}", "`--requests`"),
    ("tokens of one step", f"{MOST_BUDGET_TOKENS:,}", "`--token-budget`"),
    ("sequences at once", f"{MOST_SEQUENCES:,}", "`--sequence-limit`"),
    (
        "tokens of all requests that a prediction is made of",
        f"{MOST_SERVED_TOKENS:,}",
        "`llmpq compare`, `deploy --compare`; each request within the model's longest context",
    ),
    (
        "requests per second",
        f"{LEAST_RATE_PER_S:g} to {MOST_RATE_PER_S:g}",
        "`--rate`, and what a trace itself has where it is scaled",
    ),
    (
        "time from the first arrival to the last",
        f"{LONGEST_TRACE_S:g} s",
        "some 30 years; milliseconds are still told apart",
    ),
    (
        "characters per token",
        f"{LEAST_CHARS_PER_TOKEN:g} to {MOST_CHARS_PER_TOKEN:g}",
        "`--chars-per-token`",
    ),
    ("processes and machines", f"{MOST_WORKERS:,}", "`--workers`, `--neighbours`, `--nodes`"),
    ("runs of the demo", f"{MOST_RUNS:,}", "`--runs`"),
    ("processor time of a chat template", f"{TEMPLATE_CPU_S} s", "for one conversation"),
    ("memory of a chat template", f"{TEMPLATE_BYTES // MIB} MiB", ""),
    (
        "conversations that a chat template may end its process with",
        f"{MOST_TEMPLATE_ENDS}",
        "after them no other is tried",
    ),
)
"""What is limited, to what, and a remark."""


def markdown_table() -> str:
    """Return the table as docs/limits.md shows it."""
    lines = ["| what | at most | remark |", "| --- | --- | --- |"]
    lines += [f"| {what} | {most} | {remark} |" for what, most, remark in TABLE]
    return "\n".join(lines) + "\n"


# ---- checks


def check_count(option: str, value: int, most: int, unit: str) -> int:
    """Return a count that is from 1 to a limit.

    Raises:
        InputError: it is not; 0 is a value like any other, and never means a default.
    """
    if not 1 <= value <= most:
        raise InputError(f"{option}: expected 1 to {most} {unit}, got {_shown(value)}")
    return value


def check_number(option: str, value: float, least: float, most: float, unit: str = "") -> float:
    """Return a finite number from ``least`` to ``most``.

    Raises:
        InputError: it is not, or is not a number at all (nan).
    """
    if not least <= value <= most:
        expected = f"{least:g} to {most:g} {unit}".rstrip()
        raise InputError(f"{option}: expected {expected}, got {value:g}")
    return value


def check_name(option: str, name: str) -> str:
    """Return a name that is a line of printable characters.

    Raises:
        InputError: it is empty, too long, or has characters that cannot be printed.
    """
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME_CHARACTERS:
        found = repr(name) if len(name) <= 60 else f"{len(name)} characters"
        raise InputError(
            f"{option}: expected 1 to {LONGEST_NAME_CHARACTERS} printable characters, got {found}"
        )
    return name


MOST_OF_OPTION = {
    "count": MOST_DEVICES,
    "workers": MOST_WORKERS,
    "neighbours": MOST_WORKERS,
    "nodes": MOST_WORKERS,
    "runs": MOST_RUNS,
}
"""Largest whole number of options whose limit nothing else checks."""


def check_options(values: Mapping[str, object]) -> None:
    """Check the values of all options of a command, before anything is done with them.

    Args:
        values: by name; what is neither a number nor a name is not looked at.

    Raises:
        InputError: a number is not finite or beyond its limit, or a name does not print.
    """
    for name, value in values.items():
        option = f"--{name.removesuffix('_per_s').replace('_', '-')}"
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            check_largest(option, value, MOST_OF_OPTION.get(name, int(LARGEST_NUMBER)))
        elif isinstance(value, float) and not abs(value) <= LARGEST_NUMBER:
            raise InputError(f"{option}: expected a finite number, got {value:g}")
        elif isinstance(value, str) and name == "name":
            check_name(option, value)


def check_largest(option: str, value: int, most: int) -> None:
    """Raise InputError for a whole number above a limit."""
    if value > most:
        raise InputError(f"{option}: expected at most {most}, got {_shown(value)}")


def _shown(value: int) -> str:
    return str(value) if abs(value) <= LARGEST_NUMBER else "a number beyond all limits"


LONGEST_LINE_CHARACTERS = 4 * KIB
"""Of a file with a number a line; a longer one is no number."""
