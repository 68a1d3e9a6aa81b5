"""Agreement of the SimPy models with the recurrences that stand in for them in a search.

Both add the same numbers in the same order, so figures agree in every bit or one of them is wrong.
"""

import numpy as np
from numpy.typing import ArrayLike

from llmpq_sim.core.errors import InternalError


def check_figure(name: str, simulated: object, computed: object) -> None:
    """Check one figure of both.

    Raises:
        InternalError: they differ.
    """
    if simulated != computed:
        raise InternalError(
            f"{name}: the SimPy model says {simulated!r}, the recurrence {computed!r}, which must "
            "be equal"
        )


def check_instants(name: str, simulated_s: ArrayLike, computed_s: ArrayLike) -> None:
    """Check instants in s, one after another; simulations leave out what is not a number.

    Raises:
        InternalError: some differ.
    """
    simulated, computed = np.asarray(simulated_s, float), np.asarray(computed_s, float)
    check_figure(f"number of {name}s", len(simulated), len(computed))
    differs = ~np.isnan(simulated) & (simulated != computed)
    for number in np.flatnonzero(differs)[:1].tolist():
        check_figure(f"{name} {number}", float(simulated[number]), float(computed[number]))
