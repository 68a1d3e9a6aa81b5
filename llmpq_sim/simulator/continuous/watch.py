"""Watchers of a simulated service: who is told of its batches and steps."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from llmpq_sim.simulator.static.step_graph import OnStep

OnBatch = Callable[[float, int, int, int, int], None]
"""Told of each batch of continuous batching in order, the first being step 0: the instant in s at
which it joins the line before stage 0, sequences that decode, prompt tokens, KV blocks then in use,
and sequences that wait to be admitted.
"""


@dataclass(frozen=True)
class Watch:
    """Who is told what of a simulation, and how long.

    Attributes:
        on_step: receives every step of a stage when it ends, or None.
        on_batch: receives every batch when it is formed, or None.
        most_steps: of all stages together, after which the simulation ends.
    """

    on_step: OnStep | None = None
    on_batch: OnBatch | None = None
    most_steps: float = inf
