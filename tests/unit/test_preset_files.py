"""Readings of presets from YAML, and messages about bad ones."""

from copy import deepcopy
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.presets import load_preset, preset_from_dict, preset_names
from llmpq_sim.workloads.arrivals import (
    BurstArrivals,
    GammaArrivals,
    LognormalDelay,
    Modulation,
    PoissonBursts,
)
from llmpq_sim.workloads.lengths import (
    BatchShare,
    LengthTable,
    Lognormal,
    Normal,
    RequestLengths,
    Uniform,
)

CONTENT: dict[str, Any] = {
    "schema": "llmpq/workload",
    "version": 1,
    "name": "mine",
    "source": "made up",
    "requests": 10,
    "classes": [
        {
            "name": "chat",
            "arrivals": {"process": "gamma", "rate_per_s": 2},
            "prompt": 512,
            "output": "0:1 0.5:10 1:100",
        }
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    """Return the content with other fields in its class."""
    content = deepcopy(CONTENT)
    content["classes"][0].update(changes)
    return content


def refusal(content: object) -> str:
    with pytest.raises(InputError) as caught:
        preset_from_dict(content, "mine.yaml")
    return str(caught.value)


def test_every_bundled_preset_can_be_read_and_names_its_source() -> None:
    assert preset_names() == (
        "arxiv-summarization",
        "azure-code",
        "azure-conv",
        "burstgpt",
        "llmpq-default",
        "llmpq-mutation-100",
        "llmpq-mutation-200",
        "llmpq-short",
        "llmpq-varying",
        "mooncake-conversation",
        "mooncake-prefixes",
        "sharegpt-cumulative",
    )
    for name in preset_names():
        preset = load_preset(name)
        fitted = not name.startswith("llmpq-")
        assert preset.name == (f"{name}-like" if fitted else name)
        assert len(preset.source) > 50


def test_a_preset_is_read_field_by_field() -> None:
    preset = preset_from_dict(CONTENT, "mine.yaml")
    assert (preset.name, preset.source, preset.requests) == ("mine", "made up", 10)
    chat = preset.classes[0]
    assert chat.arrivals == GammaArrivals(2.0)
    table = LengthTable(((0.0, 1.0), (0.5, 10.0), (1.0, 100.0)))
    assert chat.lengths == RequestLengths(Uniform(512, 512), ((None, table),))


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ({"law": "lognormal", "mu": 1, "sigma": 2, "most_tokens": 9}, Lognormal(1, 2, 9)),
        ({"law": "normal", "mean_tokens": 5, "deviation_tokens": 0}, Normal(5, 0)),
        ({"law": "uniform", "least_tokens": 2, "most_tokens": 9}, Uniform(2, 9)),
        ({"law": "batch-share", "tokens": 9, "least_share": 0.5}, BatchShare(9, 0.5)),
    ],
)
def test_laws_of_lengths_are_read_by_name(law: dict[str, Any], expected: object) -> None:
    preset = preset_from_dict(changed(prompt=law), "mine.yaml")
    assert preset.classes[0].lengths.prompt == expected


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        (
            {
                "process": "gamma",
                "rate_per_s": 2,
                "shape": 0.5,
                "trend": 0.1,
                "normalized": True,
                "modulation": {"window_s": 60, "variation": 6, "persistence": 0.9},
                "hour_profile": [1.0] * 24,
            },
            GammaArrivals(2, 0.5, Modulation(60, 6, 0.9), (1.0,) * 24, 0.1, True),
        ),
        (
            {
                "process": "bursts",
                "median_requests": 3,
                "sigma": 1,
                "most_requests": 9,
                "pause": {"median_s": 3, "sigma": 2, "most_s": 9, "least_s": 1},
                "delays": [{"weight": 1, "median_s": 0.1, "sigma": 0.5, "most_s": 1}],
            },
            BurstArrivals(
                3, 1, 9, LognormalDelay(3, 2, 9, 1), ((1.0, LognormalDelay(0.1, 0.5, 1)),)
            ),
        ),
        (
            {"process": "poisson-bursts", "rate_per_s": 2, "mean_requests": 4},
            PoissonBursts(2, 4),
        ),
    ],
)
def test_processes_are_read_by_name(arrivals: dict[str, Any], expected: object) -> None:
    preset = preset_from_dict(changed(arrivals=arrivals), "mine.yaml")
    assert preset.classes[0].arrivals == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed(prompt="0:1 half:5 1:9"),
            "mine.yaml.classes[0].prompt: expected knots such as 0.5:1024, got 'half:5'",
        ),
        (
            changed(prompt="0:9 1:1"),
            "mine.yaml.classes[0].prompt: expected knots that rise in probability from 0 to 1 and "
            "in tokens",
        ),
        (
            changed(prompt="0:0 1:nan"),
            "mine.yaml.classes[0].prompt: expected knots that rise in probability from 0 to 1 and "
            "in tokens",
        ),
        (
            changed(prompt=0),
            "mine.yaml.classes[0].prompt: expected a whole number of at least 1, got 0",
        ),
        (
            changed(output={"law": "zipf"}),
            "mine.yaml.classes[0].output.law: expected one of lognormal, normal, uniform, "
            "batch-share, got 'zipf'",
        ),
        (
            changed(output=None, outputs=[{"prompt_below": 9, "output": 1}]),
            "mine.yaml.classes[0].outputs: expected rising prompt_below, and none in the last "
            "entry",
        ),
        (
            changed(
                output=None,
                outputs=[
                    {"prompt_below": 9, "output": 1},
                    {"prompt_below": 5, "output": 1},
                    {"output": 1},
                ],
            ),
            "mine.yaml.classes[0].outputs: expected rising prompt_below, and none in the last "
            "entry",
        ),
        (
            changed(arrivals={"process": "gamma", "rate_per_s": 2, "hour_profile": [1, 2]}),
            "mine.yaml.classes[0].arrivals.hour_profile: expected 24 positive numbers",
        ),
        (
            changed(arrivals={"process": "gamma", "rate_per_s": 2, "trend": 1}),
            "mine.yaml.classes[0].arrivals.trend: expected a number of 0 to 0.9999, got 1",
        ),
        (
            changed(speed=3),
            "mine.yaml.classes[0]: unknown keys ['speed']; known are: arrivals, name, output, "
            "prompt",
        ),
        (CONTENT | {"classes": []}, "mine.yaml.classes: expected at least one class, got none"),
        (
            CONTENT | {"classes": CONTENT["classes"] * 2},
            "mine.yaml.classes: expected classes of different names",
        ),
        (
            CONTENT | {"classes": [*CONTENT["classes"], {"name": "b", "prompt": 1, "output": 1}]},
            "mine.yaml.classes: expected arrivals for all classes or for none",
        ),
        (
            CONTENT | {"version": 2},
            "mine.yaml.version: expected 1, got 2; the file was written by another version of "
            "llmpq",
        ),
        (
            changed(arrivals={"process": "poisson-bursts", "rate_per_s": 1, "mean_requests": 0.5}),
            "mine.yaml.classes[0].arrivals.mean_requests: expected a number of 1 to "
            "100000, got 0.5",
        ),
    ],
)
def test_a_wrong_preset_says_what_and_where(content: object, message: str) -> None:
    assert refusal(content) == message


def test_conversations_need_one_class_with_gamma_arrivals() -> None:
    conversations = {
        "block_tokens": 16,
        "shared_blocks": 1,
        "another_turn": [0.5],
        "gap": {"median_s": 1, "sigma": 1, "most_s": 9},
        "growth": 5,
        "most_prompt_tokens": 100,
    }
    content = changed(arrivals=None) | {"conversations": conversations}
    message = "mine.yaml.conversations: expected one class with gamma arrivals"
    assert refusal(content) == message
    conversations["another_turn"] = [1.0]
    message = "mine.yaml.conversations.another_turn: expected shares from 0 to 0.95"
    assert refusal(CONTENT | {"conversations": conversations}) == message


def test_an_unknown_name_is_answered_with_the_likely_ones() -> None:
    with pytest.raises(InputError) as caught:
        load_preset("azure-chat")
    assert str(caught.value) == (
        "--trace: expected the name of a workload, got 'azure-chat'; "
        "did you mean azure-conv or azure-code?"
    )
