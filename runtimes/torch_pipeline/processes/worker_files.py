"""Names of the files in which stages leave what they have to tell."""

FINISHED_FILE = "finished.jsonl"
"""A line for each finished request, by the first stage."""

MEASURED_FILE = "measured.json"
"""The execution, by the first stage at the end."""

LARGEST_BYTES = 1 << 40
"""Of files that processes of one run write for each other: as many as the requests make."""
