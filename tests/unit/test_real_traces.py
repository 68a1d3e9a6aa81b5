"""Recorded traces against what is known of them, and presets against what they were fitted to.

Statistics are of the files named; those of presets were measured over 50 seeds when they were
fitted, and the limits here leave room for a single draw.
"""

import numpy as np
import pytest

from llmpq_sim.core.trace import IntArray, TraceWorkload
from llmpq_sim.io.presets import load_preset
from llmpq_sim.workloads.generate import synthesize
from tests.traces import dispersion, distance, gap_variation, real_trace, rng

CONV = "azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
CODE = "azure-llm-2023/AzureLLMInferenceTrace_code.csv"
MOONCAKE = "mooncake-fast25/conversation_trace.jsonl.gz"


def percentiles(tokens: IntArray) -> list[float]:
    return [float(tokens.mean().round()), *np.percentile(tokens, [50, 90, 99, 100]).round()]


def infinite_cache_hits(workload: TraceWorkload) -> float:
    """Return the share of blocks that an unlimited prefix cache holds already."""
    seen: set[int] = set()
    hits = 0
    assert workload.prefix_blocks is not None
    for row in workload.prefix_blocks:
        hits += sum(block in seen for block in row)
        seen.update(row)
    return hits / sum(map(len, workload.prefix_blocks))


def test_azure_conversations() -> None:
    workload = real_trace(CONV)
    assert workload.requests == 19366
    assert workload.span_s == pytest.approx(3501.7, abs=0.05)
    assert workload.rate_per_s == pytest.approx(5.53, abs=0.005)
    assert workload.arrival_s[1] == pytest.approx(4.314579, abs=1e-9)
    assert percentiles(workload.prompt_tokens) == [1155, 1020, 2734, 4142, 14050]
    assert percentiles(workload.output_tokens) == [211, 129, 424, 601, 1000]
    assert (workload.prompt_tokens > 4096).sum() == 402
    assert gap_variation(workload.arrival_s) == pytest.approx(1.094, abs=0.001)
    measured = [dispersion(workload.arrival_s, window_s) for window_s in (1, 10, 60)]
    assert measured == pytest.approx([1.39, 3.86, 16.13], abs=0.01)


def test_azure_code() -> None:
    workload = real_trace(CODE)
    assert workload.requests == 8819
    assert workload.rate_per_s == pytest.approx(2.567, abs=0.001)
    assert percentiles(workload.prompt_tokens) == [2048, 1469, 5188, 7436, 7437]
    assert percentiles(workload.output_tokens)[:4] == [28, 13, 55, 251]
    assert gap_variation(workload.arrival_s) == pytest.approx(13.151, abs=0.001)
    assert dispersion(workload.arrival_s, 10) == pytest.approx(71.64, abs=0.01)
    assert float(np.diff(workload.arrival_s).max()) == pytest.approx(217, abs=0.5)


def test_mooncake_conversations_are_a_poisson_process_in_ticks_of_three_seconds() -> None:
    workload = real_trace(MOONCAKE)
    assert workload.requests == 12031
    assert workload.span_s == pytest.approx(3540, abs=3)
    assert percentiles(workload.prompt_tokens) == [12035, 6909, 27367, 85400, 126195]
    assert workload.block_tokens == 512
    assert infinite_cache_hits(workload) == pytest.approx(0.366, abs=0.001)
    assert workload.notes[-1] == "most stamps repeat: spread uniformly inside ticks of 3 s"
    assert gap_variation(workload.arrival_s) == pytest.approx(1.01, abs=0.03)


def test_mooncake_synthetic_and_its_older_trace() -> None:
    synthetic = real_trace("mooncake-fast25/synthetic_trace.jsonl")
    assert synthetic.requests == 3993
    assert synthetic.span_s == pytest.approx(1022.0, abs=0.05)
    assert gap_variation(synthetic.arrival_s) == pytest.approx(1.011, abs=0.001)
    assert infinite_cache_hits(synthetic) == pytest.approx(0.640, abs=0.001)
    older = real_trace("mooncake-arxiv/mooncake_trace_1000.jsonl")
    assert (older.requests, older.block_tokens) == (1000, 512)
    assert percentiles(older.prompt_tokens)[1:] == [6558, 19789, 77828, 121290]


def test_burstgpt() -> None:
    workload = real_trace("burstgpt/BurstGPT_1_head400.csv")
    assert (workload.requests, workload.span_s) == (383, 37269.0)
    assert percentiles(workload.prompt_tokens) == [544, 353, 1437, 1958, 2126]
    assert workload.notes[-1] == "dropped of 400 rows: 17 without any tokens"
    third = real_trace("burstgpt/BurstGPT_3_head15.csv")
    assert (third.requests, third.arrival_s[1]) == (15, 51.0)
    assert third.session is not None


def test_vidur_lengths() -> None:
    workload = real_trace("vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv")
    assert (workload.requests, workload.rate_per_s) == (28257, None)
    assert percentiles(workload.prompt_tokens) == [2588, 2730, 3702, 3933, 4054]
    assert percentiles(workload.output_tokens) == [291, 167, 372, 3271, 4056]


def test_servegen_clients() -> None:
    workload = real_trace("servegen/servegen-reason-deepseek-r1.tar.gz", limit=5000)
    assert workload.requests == 5000
    assert workload.rate_per_s is not None
    assert 4.3 <= workload.rate_per_s <= 42.5  # the range of the day
    assert workload.output_tokens.max() <= 32_768


LIMITS = {
    "azure-conv": (CONV, 0.04, 0.02, 0.02),
    "azure-code": (CODE, 0.12, 0.025, 0.025),
    "mooncake-conversation": (MOONCAKE, 0.025, 0.02, 0.025),
    "mooncake-prefixes": (MOONCAKE, 0.025, 0.045, 0.025),
}
"""Largest Kolmogorov-Smirnov distance of gaps, prompts and outputs. Two samples of these sizes from
one distribution are about 0.01 apart."""


@pytest.mark.parametrize("name", LIMITS)
def test_a_preset_is_close_to_its_trace(name: str) -> None:
    file, gaps, prompts, outputs = LIMITS[name]
    real, made = real_trace(file), synthesize(load_preset(name), 12_000, None, rng(1))
    assert distance(np.diff(made.arrival_s), np.diff(real.arrival_s)) < gaps
    assert distance(made.prompt_tokens, real.prompt_tokens) < prompts
    assert distance(made.output_tokens, real.output_tokens) < outputs


def test_outputs_depend_on_prompts_as_in_the_trace() -> None:
    real, made = real_trace(CONV), synthesize(load_preset("azure-conv"), 19366, None, rng())
    for low, high in ((1, 206), (700, 1020), (1020, 1130), (2700, 20_000)):
        outputs = [
            each.output_tokens[(each.prompt_tokens >= low) & (each.prompt_tokens < high)]
            for each in (real, made)
        ]
        assert distance(*outputs) < 0.06


def test_bursts_are_as_heavy_as_in_the_trace() -> None:
    made = [synthesize(load_preset("azure-code"), 8819, None, rng(seed)) for seed in range(10)]
    empty = [1 - len(np.unique(each.arrival_s // 1)) / each.span_s for each in made]
    assert np.mean(empty) == pytest.approx(0.73, abs=0.05)
    mean = np.mean([dispersion(each.arrival_s, 60) for each in made])
    assert mean == pytest.approx(164, rel=0.2)


def test_burstgpt_has_the_published_gaps_and_wanders_as_much() -> None:
    made = [synthesize(load_preset("burstgpt"), 150_000, None, rng(seed)) for seed in range(4)]
    gaps = np.concatenate([np.diff(each.arrival_s) for each in made])
    assert np.median(gaps) <= 2  # 1 in the trace
    assert 6 <= np.percentile(gaps, 95) <= 40  # 12
    counts = np.concatenate([np.bincount((each.arrival_s // 60).astype(int)) for each in made])
    assert 1.5 <= counts.std() / counts.mean() <= 4.5  # 2.91


def test_conversations_hit_a_prefix_cache_as_often_as_in_the_trace() -> None:
    made = [synthesize(load_preset("mooncake-prefixes"), 12031, None, rng(s)) for s in range(5)]
    hits = np.mean([infinite_cache_hits(each) for each in made])
    assert hits == pytest.approx(0.366, abs=0.02)
    going_on = [1 - len(np.unique(each.session)) / each.requests for each in made]  # type: ignore[arg-type]
    assert np.mean(going_on) == pytest.approx(0.33, abs=0.02)
