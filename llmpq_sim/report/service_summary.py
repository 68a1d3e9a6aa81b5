"""Summary of a simulated service, in a few words."""

from llmpq_sim.api.replay import Replay
from llmpq_sim.report.formatting import counted, joined, percent_text, rate_text, seconds_text
from llmpq_sim.report.summary import kinds_text
from llmpq_sim.simulator.continuous.max_rate import MaxRate
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.simulator.continuous.settings import ServiceObjectives


def service_headline(service: Service) -> list[str]:
    """Return what is served per second, and how much of it is good."""
    result = service.result
    if not result.finished:
        return [f"all {counted(result.requests, 'request')} refused: none fits"]
    parts = [
        f"{rate_text(result.requests_per_s)} requests/s",
        f"{rate_text(result.tokens_per_s)} tokens/s",
    ]
    if result.goodput_per_s is not None and result.slo_attainment is not None:
        met = percent_text(result.slo_attainment, 1)
        parts += [f"goodput {rate_text(result.goodput_per_s)} requests/s", f"{met} meet the SLO"]
    cost = service.usd_per_million_tokens
    return parts if cost is None else [*parts, f"${cost:.2f} per million tokens"]


def queue_sentence(replay: Replay) -> str:
    """Return how the queue develops, and what the plan could hold where it cannot hold the rate."""
    queue, rate_per_s = replay.queue, replay.service.workload.rate_per_s
    if queue.sustained_rate_per_s is not None and rate_per_s is not None:
        held = rate_text(queue.sustained_rate_per_s)
        return (
            f"The queue grows without bound: {rate_text(rate_per_s)} requests/s arrive, and "
            f"{counted(queue.at_end, 'request')} wait for a first token when the last one "
            f"arrives. The plan could hold about {held} requests/s: try --rate {held}."
        )
    return (
        f"Waiting for a first token: at most {counted(queue.most, 'request')} at once, "
        f"{queue.mean:.1f} on average."
    )


def max_rate_sentence(highest: MaxRate) -> str:
    """Return the highest rate at which enough requests meet the objectives."""
    share = percent_text(highest.attainment, 1)
    if highest.rate_per_s is None:
        lowest = min(trial.rate_per_s for trial in highest.trials)
        return f"At no rate down to {rate_text(lowest)} requests/s do {share} meet the SLO."
    rate = f"{rate_text(highest.rate_per_s)} requests/s"
    if not highest.is_limit:
        return f"Up to {rate}, as far as was tried, {share} meet the SLO."
    return (
        f"Up to {rate}, {share} meet the SLO: the trace's arrivals compressed, "
        f"{len(highest.trials)} rates tried."
    )


def service_scenario_parts(service: Service) -> list[str]:
    """Return what is served where: model, devices, and the trace."""
    model, cluster, workload = service.costs.model, service.costs.cluster, service.workload
    rate_per_s = workload.rate_per_s
    rate = "all at once" if rate_per_s is None else f"{rate_text(rate_per_s)} requests/s"
    prompts = workload.total_prompt_tokens / workload.requests
    outputs = workload.total_output_tokens / workload.requests
    return [
        f"{model.name} ({counted(model.layers, 'layer')})",
        f"{cluster.name} ({kinds_text(cluster)})",
        f"{counted(workload.requests, 'request')} of {workload.name}, {rate}",
        f"mean {prompts:.0f} prompt + {outputs:.0f} output tokens",
    ]


def settings_parts(service: Service) -> list[str]:
    """Return how requests are batched."""
    settings = service.settings
    prompts = "prompts cut to fit" if settings.chunked_prefill else "prompts whole, before decodes"
    parts = [
        f"at most {counted(settings.token_budget, 'token')} a batch",
        f"{counted(settings.sequence_limit, 'request')} admitted",
        prompts,
    ]
    if settings.prefix_caching:
        reused = counted(service.result.reused_prompt_tokens, "prompt token")
        parts.append(f"prefixes cached: {reused} reused")
    return parts


def objective_parts(objectives: ServiceObjectives | None) -> list[str]:
    """Return what a request must meet to be good; nothing where no limit is given."""
    if objectives is None:
        return []
    limits = (
        ("TTFT", objectives.ttft_s),
        ("TPOT", objectives.tpot_s),
        ("end to end", objectives.latency_s),
    )
    return [f"{name} at most {seconds_text(limit)}" for name, limit in limits if limit is not None]


def trouble_sentences(service: Service) -> list[str]:
    """Return what went wrong for requests: refused ones, and those computed anew."""
    result, sentences = service.result, []
    if result.refused:
        capacity = service.pipeline.block_capacity * service.settings.block_tokens
        longest = min(capacity, service.settings.longest_context_tokens)
        sentences.append(
            f"Refused: {counted(result.refused, 'request')} of {result.requests} with more than "
            f"{longest} tokens, all that the tightest stage can hold for one."
        )
    if result.preemptions:
        tight = [
            stage.device
            for stage, peak in zip(service.plan.stages, result.kv_peak_fraction, strict=True)
            if peak == max(result.kv_peak_fraction)
        ]
        sentences.append(
            f"KV cache ran out on {joined(tight)}: {counted(result.preemptions, 'preemption')}, "
            "each computing its request's cache anew."
        )
    return sentences
