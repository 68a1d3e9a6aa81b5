"""Report of advice against requests that evict each other: a sentence, and plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmpq_sim.report.formatting import rate_text

if TYPE_CHECKING:
    from llmpq_sim.api.replaying import Replay
    from llmpq_sim.core.result import SimulationResult
    from llmpq_sim.simulator.continuous.eviction_advice import Remedy
    from llmpq_sim.simulator.continuous.settings import ContinuousSettings


def eviction_sentences(replay: Replay) -> list[str]:
    """Return which options would serve how much, where requests evict each other."""
    service = replay.service
    if not replay.advice:
        return []
    best, *others = replay.advice
    gained, unit = _figure(best.result)
    now = service.result.goodput_per_s if best.result.goodput_per_s else service.result.tokens_per_s
    text = (
        f"Requests evict each other, {service.result.preemptions / service.result.finished:.1f} "
        f"times each: {_option(best, service.settings)} would serve {rate_text(gained)} {unit} "
        f"for {rate_text(now or 0.0)}"
    )
    for other in others:
        figure, unit = _figure(other.result)
        text += f", {_option(other, service.settings)} {rate_text(figure)} {unit}"
    return [text + "."]


def eviction_content(replay: Replay) -> list[dict[str, Any]]:
    """Return the options that would serve more as plain data, the best first."""
    return [
        {
            "option": _option(each, replay.service.settings),
            "tokens_per_s": each.result.tokens_per_s,
            "goodput_per_s": each.result.goodput_per_s,
            "preemptions": each.result.preemptions,
        }
        for each in replay.advice
    ]


def _option(remedy: Remedy, now: ContinuousSettings) -> str:
    if remedy.settings.admission != now.admission:
        return f"--admission {remedy.settings.admission}"
    return f"--sequence-limit {remedy.settings.sequence_limit}"


def _figure(result: SimulationResult) -> tuple[float, str]:
    """Return good requests a second, or output tokens where no request is good or need be."""
    if result.goodput_per_s:
        return result.goodput_per_s, "good requests/s"
    return result.tokens_per_s, "tokens/s"
