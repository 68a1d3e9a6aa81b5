"""One class a weight format: what is unknown, or only planned, is refused before anything loads."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmpq_sim import api
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS, WeightFormat
from runtimes import testing
from runtimes.base import Job, RuntimeOptions, TokenRequest
from runtimes.commands.quality import _measure_plan
from runtimes.profiling.task import checked_formats
from runtimes.quality import measured_model
from runtimes.quality.settings import DEFAULT_FORMATS, chosen_formats
from runtimes.torch_pipeline.processes import job_building
from runtimes.torch_pipeline.weights.formats.registry import STORED_FORMATS, stored_format
from runtimes.torch_pipeline.weights.kernels import kernel_for
from runtimes.torch_pipeline.weights.quantizers import dequantize, parse_quantizers, quantize
from runtimes.torch_pipeline.weights.weight_cache import layer_key
from tests.runtimes.linears_of_tests import CPU, gaussian
from tests.runtimes.models import save_model
from tests.runtimes.quality_subjects import quality_settings

PLANNED = WeightFormat("int8-g128", 8, 128, 16, "to nearest", 127, symbol="G")

USES: dict[str, Callable[[str], object]] = {
    "quantize": lambda name: quantize(gaussian(4, 128), name, torch.bfloat16),
    "dequantize": lambda name: dequantize({"codes": gaussian(4, 128)}, name, 4, 128),
    "multiply": lambda name: kernel_for(name, CPU, (64, 256)),
    "cache": lambda name: layer_key("weights", 0, name, "bf16"),
    "profile": lambda name: checked_formats(("int4", name), "bf16"),
    "quality": lambda name: chosen_formats(f"int4,{name}"),
}


@pytest.fixture(autouse=True)
def _planned_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, PLANNED.name, PLANNED)


def said(where: str) -> str:
    return (
        f"^{where}: the torch runtime stores int8, int4, int3, .* and 16 bits; int8-g128 is "
        "planned only, leave it out of --formats$"
    )


def test_every_format_that_ships_has_a_class_of_its_own() -> None:
    claimed = {name for name, each in FORMATS.items() if "torch" in each.engines}
    assert STORED_FORMATS.keys() == claimed | {"fp32"}
    for name, stored in STORED_FORMATS.items():
        assert stored_format(name) is stored
        assert stored.record.name == name
        assert name == "fp32" or stored.record is FORMATS[name]
        assert bool(stored.quantizers) == stored.record.is_quantized


@pytest.mark.parametrize("use", USES)
def test_a_format_without_a_class_is_refused_by_name(use: str) -> None:
    with pytest.raises(InputError, match=said(r"[\w -]+")):
        USES[use](PLANNED.name)
    with pytest.raises(InputError, match=r"expected a weight format \(fp16, .*, got 'int7'"):
        USES[use]("int7")


def test_what_is_measured_by_default_is_what_is_stored() -> None:
    assert DEFAULT_FORMATS == chosen_formats(None) == ("int3", "int4", "int8")
    assert checked_formats(None, "bf16") == ("bf16", "int8", "int4", "int3")
    assert PLANNED.name not in parse_quantizers("rtn")
    for name in ("profile", "quality"):  # it is a type of computing, not a format of plans
        with pytest.raises(InputError, match="expected a weight format"):
            USES[name]("fp32")


def test_a_plan_is_refused_before_its_weights_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model("llama", tmp_path / "model")
    monkeypatch.setattr(testing, "ALL_FORMATS", (*testing.ALL_FORMATS, PLANNED.name))
    saved = testing.saved_plan(folder, [("int8", PLANNED.name), ("bf16", "int4")])
    for module in (job_building, measured_model):
        monkeypatch.setattr(module, "open_checkpoint", None)
    request = TokenRequest("one", (3, 4), 2)
    job = Job(saved, (request,), folder, "static", None, RuntimeOptions())
    with pytest.raises(InputError, match=said("plan")):
        job_building.check_job(job)
    monkeypatch.setattr(api, "load", lambda *_, **__: saved)
    with pytest.raises(InputError, match=said("--plan")):
        _measure_plan(tmp_path / "plan.json", quality_settings(folder, None), [], as_json=False)
