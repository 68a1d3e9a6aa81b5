"""Units in which people write and read quantities."""

KIB = 1024
MIB = 1024**2
GIB = 1024**3
GB = 1e9
TFLOP = 1e12
MS = 1e-3
US = 1e-6


def gib(size_bytes: float) -> str:
    """Return a size as text in GiB with one decimal, such as ``18.2``."""
    return f"{size_bytes / GIB:.1f}"
