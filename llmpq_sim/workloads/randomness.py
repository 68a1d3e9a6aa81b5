"""Independent random streams from one seed."""

from zlib import crc32

import numpy as np


class Streams:
    """Independent generators by name, all from one draw of another generator.

    A consumer that is added, or draws more, leaves what the others draw as it was.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._seed = int(rng.integers(1 << 63))

    def named(self, name: str) -> np.random.Generator:
        """Return the generator of this name, always in its first state."""
        return np.random.default_rng([self._seed, crc32(name.encode())])
