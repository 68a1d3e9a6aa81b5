"""Planning tasks: quality targets, batches, formats, profiles, and what is refused."""

import json
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import load_cluster, load_devices
from llmpq_sim.io.files import write_json
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import cluster_profiles, load_profiles, profile_sha256
from llmpq_sim.io.tasks import (
    QualityTarget,
    batch_workload,
    chosen_formats,
    formats_without_times,
    load_output_lengths,
    load_sensitivity,
    planning_task,
    quality_target,
)
from llmpq_sim.latency.spec import spec_profile

MODEL = load_model("opt-125m")
CLUSTER = load_cluster("t4-v100-a100")


def refused(text: str) -> str:
    with pytest.raises(InputError) as error:
        quality_target(text)
    return str(error.value)


def test_a_quality_target_is_a_format_or_a_number() -> None:
    assert quality_target("int8") == QualityTarget("int8", None)
    assert quality_target("0.02") == QualityTarget(None, 0.02)
    expected = (
        f"--quality-at-least: expected a format ({', '.join(FORMATS)}) or the largest loss "
        "as a number of at least 0, got "
    )
    assert [refused(text) for text in ("int7", "-1", "nan", "inf")] == [
        f"{expected}{text!r}" for text in ("int7", "-1", "nan", "inf")
    ]


@pytest.mark.parametrize(
    ("batch", "prompt", "output", "message"),
    [
        (0, 1, 1, "--batch: expected 1 to 4096 requests, got 0"),
        (1, 0, 1, "--prompt-tokens: expected 1 to 1000000 tokens, got 0"),
        (1, 1, -5, "--output-tokens: expected 1 to 1000000 tokens, got -5"),
        (
            1,
            2000,
            100,
            "--prompt-tokens: 2000 and 100 to generate are 2100 tokens, opt-125m takes 2048",
        ),
    ],
)
def test_a_batch_out_of_range_is_refused(
    batch: int, prompt: int, output: int, message: str
) -> None:
    with pytest.raises(InputError) as error:
        batch_workload(MODEL, batch, prompt, output)
    assert str(error.value) == message


def test_output_lengths_are_one_whole_number_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("3\n\n 14 \n", encoding="utf-8")
    assert load_output_lengths(path) == (3, 14)
    path.write_text("3\nmany\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_output_lengths(path)
    assert str(error.value) == ("lengths.txt:2: expected a whole number of at least 1, got 'many'")


def test_a_sensitivity_file_weighs_the_layers_of_its_model(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    content = {"schema": "llmpq/sensitivity", "version": 1, "model": "opt-125m"}
    write_json(path, {**content, "sensitivity": [1.0] * 11 + [2.0]})
    assert load_sensitivity(path, MODEL) == (1.0,) * 11 + (2.0,)
    for weights, message in (
        ([1.0], "s.json.sensitivity: expected 12 numbers, one per layer, got 1"),
        ([1.0] * 11 + [0.0], "s.json.sensitivity[11]: expected a positive number, got 0.0"),
    ):
        path.write_text(json.dumps({**content, "sensitivity": weights}), encoding="utf-8")
        with pytest.raises(InputError) as error:
            load_sensitivity(path, MODEL)
        assert str(error.value) == message


def test_sixteen_bits_are_bf16_only_where_model_and_all_devices_have_it() -> None:
    llama, ampere = load_model("llama-3.1-8b"), load_cluster("a100-l40s")
    assert chosen_formats(None, llama, ampere) == ("int3", "int4", "int8", "bf16")
    assert chosen_formats(None, llama, CLUSTER) == ("int3", "int4", "int8", "fp16")
    assert chosen_formats(None, MODEL, ampere) == ("int3", "int4", "int8", "fp16")


def test_a_format_that_no_device_runs_is_refused() -> None:
    assert chosen_formats("fp16, int4", MODEL, CLUSTER) == ("int4", "fp16")
    with pytest.raises(InputError) as error:
        chosen_formats("bf16", MODEL, load_cluster("paper-9"))
    assert str(error.value) == "--formats: no device of paper-9 runs bf16"


def test_a_kernel_set_that_a_device_lacks_is_refused() -> None:
    with pytest.raises(InputError) as error:
        cluster_profiles(load_cluster("a100-l40s"), "marlin", {})
    assert str(error.value) == (
        "--kernels: a100-sxm has no profile for 'marlin'; it has trtllm-1.0, spec; "
        "a profile of your own is given with --profile"
    )


def test_a_profile_of_the_users_replaces_the_bundled_one(tmp_path: Path) -> None:
    device = load_devices()["t4"]
    path = tmp_path / "t4.json"
    write_json(path, to_dict(spec_profile(device)))
    own = load_profiles([path])
    assert cluster_profiles(CLUSTER, "spec", own)["t4"] == spec_profile(device)
    assert profile_sha256(own["t4"]) == profile_sha256(spec_profile(device))
    with pytest.raises(InputError) as error:
        cluster_profiles(load_cluster("a100-l40s"), "spec", own)
    assert str(error.value) == "--profile: t4 is not in a100-l40s, which has a100-sxm, l40s"
    with pytest.raises(InputError) as error:
        load_profiles([path, path])
    assert str(error.value) == "t4.json: another profile given is for t4 too"


def test_a_format_without_times_is_withheld_and_said(tmp_path: Path) -> None:
    content = to_dict(spec_profile(load_devices()["t4"]))
    del content["gemms"]["int8"]
    path = tmp_path / "t4.json"
    write_json(path, content)
    profiles = cluster_profiles(CLUSTER, "spec", load_profiles([path]))
    formats = ("int4", "int8", "fp16")
    assert formats_without_times(CLUSTER, profiles, formats) == [
        "t4 is not given int8: t4/spec has no times"
    ]
    scenario = Scenario(MODEL, CLUSTER, batch_workload(MODEL, 2, 8, 2))
    task = planning_task(scenario, profiles, formats, quality_target("int4"))
    assert "int8" not in task.costs.devices["t4"].formats
    with pytest.raises(InputError) as error:
        planning_task(scenario, profiles, ("int8",), quality_target("int8"))
    assert str(error.value).startswith(
        "t4-0: the profile t4/spec has no times for any allowed format (int8) that t4 runs; it has"
    )
