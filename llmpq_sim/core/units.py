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


def gib_apart(*sizes_bytes: int) -> tuple[str, ...]:
    """Return sizes as texts in GiB with as many decimals as tell different ones apart.

    One decimal as a rule; with ten each byte shows.
    """
    for decimals in range(1, 11):
        texts = tuple(f"{size_bytes / GIB:.{decimals}f}" for size_bytes in sizes_bytes)
        if len(set(texts)) == len(set(sizes_bytes)):
            break
    return texts
