import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.latency.corrections import Correction
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.latency.trees import Trees
from tests.local_rows import local_machine
from tests.measured import lab_device

SPEC = spec_profile(lab_device(formats=("fp16", "int4")))
TREES = Trees(0.1, (0, 18), (3.5, 0.25), ("<0 1 <1 -2 3",))
CORRECTION = Correction(TREES, (1.0, 64.0, 64.0), (8192.0, 65536.0, 65536.0))


def with_trees() -> DeviceProfile:
    int4 = replace(SPEC.gemms["int4"], correction=CORRECTION)
    return replace(
        SPEC,
        status="measured",
        gemms={"fp16": SPEC.gemms["fp16"], "int4": int4},
        aliases={"bf16": "fp16", "int3": "int4"},
        no_gain_tokens=1024.0,
    )


def read(content: object) -> DeviceProfile:
    return from_dict(DeviceProfile, Fields(content, "lab.json"))


def with_overheads() -> DeviceProfile:
    return replace(
        with_trees(),
        step_overhead_s=2e-4,
        embedding_overhead=Overhead(1e-5, 0.0),
        head_overhead=Overhead(0.0, 3e-10),
        dense_from_tokens={"int4": 23},
        pipeline_factors={"int4": ((4.0, 0.9), (256.0, 1.1))},
        machine=local_machine(),
        link=Link(5e-5, 2e9),
    )


@pytest.mark.parametrize("profile", [SPEC, with_trees(), with_overheads()])
def test_a_profile_survives_its_file_exactly(profile: DeviceProfile) -> None:
    assert read(parse_json(json_text(to_dict(profile)), "lab.json")) == profile


def test_what_only_own_measurements_say_is_written_only_where_it_is_known() -> None:
    usual = set(to_dict(with_trees()))
    assert set(to_dict(with_overheads())) - usual == {
        "step_overhead_s",
        "embedding_overhead",
        "head_overhead",
        "dense_from_tokens",
        "served_factors",
        "machine",
        "link",
    }


def test_layers_in_a_pipeline_take_factors_by_tokens() -> None:
    """Linear in the logarithm of the tokens between two counts, constant beyond them."""
    profile = with_overheads()
    tokens = np.array([1.0, 4.0, 32.0, 256.0, 9000.0])
    found = profile.pipeline_factor("int3", tokens)  # priced as int4
    assert found == pytest.approx([0.9, 0.9, 1.0, 1.1, 1.1])
    assert profile.pipeline_factor("bf16", tokens).tolist() == [1.0] * 5


def test_an_alias_is_priced_as_what_it_stands_for() -> None:
    profile = with_trees()
    assert profile.formats == ("fp16", "int4", "bf16", "int3")
    tokens = np.array([1.0, 100.0, 9000.0])
    same = profile.gemm_s("int3", tokens, 512, 512) == profile.gemm_s("int4", tokens, 512, 512)
    assert same.all()
    assert profile.beyond_range("int3", tokens, 512, 512).tolist() == [False, False, True]


def test_an_unknown_format_names_those_there_are() -> None:
    message = "^profile lab/spec has no measurements of int3; it has fp16, int4$"
    with pytest.raises(InputError, match=message):
        SPEC.gemm_s("int3", 1, 1, 1)
    with pytest.raises(InputError, match=message):
        SPEC.beyond_range("int3", 1, 1, 1)


def test_no_format_gains_in_a_long_prefill() -> None:
    quick = replace(SPEC.gemms["int4"], base=replace(SPEC.gemms["int4"].base, flops_per_s=1e15))
    timed = replace(SPEC, gemms={**SPEC.gemms, "int4": quick})
    limited = replace(timed, no_gain_tokens=1024.0)
    tokens = np.array([512.0, 1024.0, 4096.0])
    fp16_s, int4_s = (timed.gemm_s(name, tokens, 8192, 8192) for name in ("fp16", "int4"))
    assert (int4_s < fp16_s).all()
    expected = [int4_s[0], fp16_s[1], fp16_s[2]]
    assert limited.gemm_s("int4", tokens, 8192, 8192).tolist() == expected


def test_rows_that_contain_activations_leave_nothing_for_them() -> None:
    whole = replace(SPEC, elementwise_bytes_per_s=None)
    assert whole.elementwise_s([1e9, 2e9]).tolist() == [0, 0]


def changed(path: tuple[str, ...], value: object) -> dict[str, Any]:
    content: dict[str, Any] = copy.deepcopy(to_dict(with_trees()))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


TREE_PATH = ("gemms", "int4", "correction")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("version",), 2, "lab.json.version: expected 1, got 2; the file was written by another "
                          "version of llmpq"),
        (("status",), "guess", "lab.json.status: expected one of measured, calibrated, spec, "
                               "got 'guess'"),
        (("gemms",), {}, "lab.json.gemms: expected fp16 among the weight formats"),
        (("gemms", "fp16", "flops_per_s"), 0, "lab.json.gemms.fp16.flops_per_s: expected a "
                                              "positive number, got 0"),
        (("gemms", "fp16", "extra"), 0, "lab.json.gemms.fp16: unknown keys ['extra']; known are: "
                                        "bytes_per_s, correction, fixed_s, flops_per_s, "
                                        "multiprocessors, weight_bits"),
        (("aliases", "int4"), "fp16", "lab.json.aliases.int4: it has a model of its own in gemms"),
        (("aliases", "int8"), "int3", "lab.json.aliases.int8: expected one of fp16, int4, "
                                      "got 'int3'"),
        (("gemms", "int4", "profiled", "tokens"), [9, 1], "lab.json.gemms.int4.profiled.tokens: "
         "expected two positive numbers, the lower first, got [9.0, 1.0]"),
        (("dense_from_tokens",), {"int4": 0}, "lab.json.dense_from_tokens.int4: expected a whole "
                                              "number of at least 1, got 0"),
        (("dense_from_tokens",), {"int7": 4}, "lab.json.dense_from_tokens: expected a weight "
         f"format ({', '.join(FORMATS)}), got 'int7'"),
        (("served_factors",), {"int4": [{"tokens": 4, "factor": 0}]}, "lab.json.served_factors."
         "int4[0].factor: expected a positive number, got 0"),
        (("served_factors",), {"int4": [{"tokens": 4, "factor": 1}] * 2}, "lab.json.served_factors."
         "int4: expected growing tokens, got [4.0, 4.0]"),
        (("head_overhead",), {"fixed_s": -1, "byte_s": 0}, "lab.json.head_overhead.fixed_s: "
         "expected a number of at least 0, got -1"),
        (("link",), {"latency_s": 0}, "lab.json.link.bytes_per_s: expected a positive number, "
                                      "but it is missing"),
        ((*TREE_PATH, "start"), "x", "lab.json.gemms.int4.correction.start: expected a number, "
                                     "got 'x'"),
        ((*TREE_PATH, "threshold_features"), [0], "lab.json.gemms.int4.correction."
         "threshold_features: expected 2 numbers, one for each of threshold_values, got 1"),
        ((*TREE_PATH, "threshold_features"), [0, 19], "lab.json.gemms.int4.correction."
         "threshold_features: expected whole numbers from 0 to 18, got 19.0"),
        ((*TREE_PATH, "trees"), ["<0 1"], "lab.json.gemms.int4.correction.trees[0]: expected a "
                                          "whole tree, but its end is missing"),
    ],
)  # fmt: skip
def test_a_bad_profile_says_what_and_where(
    path: tuple[str, ...], value: object, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(changed(path, value))
    assert str(caught.value) == message
