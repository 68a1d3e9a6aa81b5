"""Static pipeline in SimPy, readable, which the fast path must equal.

One SimPy process tells the story of each stage and of each link, and a store is the line before
it. The engine answers the same in every bit, many times faster.
"""

from simpy import Environment, Store
from simpy.events import ProcessGenerator

from llmpq_sim.simulator.static.step_graph import Wave, WaveTimes


def run_wave_plainly(wave: Wave, start_s: float = 0.0) -> WaveTimes:
    """Return when each visit of a wave that begins at ``start_s`` is sampled."""
    pipeline = _Pipeline(wave, start_s)
    pipeline.environment.run()
    return WaveTimes(pipeline.sampled_s, max(pipeline.sampled_s))


class _Pipeline:
    """The stages and links of a wave, and what they have done so far."""

    def __init__(self, wave: Wave, start_s: float) -> None:
        self.environment = Environment(start_s)
        self.wave = wave
        self.last = len(wave.service_s) - 1
        self.stage_lines = [Store(self.environment) for _ in wave.service_s]
        self.link_lines = [Store(self.environment) for _ in wave.transfer_s]
        self.sampled_s = [start_s] * wave.visits
        for number in range(len(wave.service_s)):
            self.environment.process(self._stage(number))
            self.environment.process(self._link(number))
        for visit in range(wave.starts):
            self.stage_lines[0].put(visit)

    def _stage(self, number: int) -> ProcessGenerator:
        while True:
            visit = yield self.stage_lines[number].get()
            yield self.environment.timeout(self.wave.service_s[number][visit])
            if number == self.last:
                self.sampled_s[visit] = self.environment.now
            yield self.link_lines[number].put(visit)

    def _link(self, number: int) -> ProcessGenerator:
        while True:
            visit = yield self.link_lines[number].get()
            yield self.environment.timeout(self.wave.transfer_s[number][visit])
            if number < self.last:
                yield self.stage_lines[number + 1].put(visit)
            else:
                for follower in self.wave.successors[visit]:
                    yield self.stage_lines[0].put(follower)
