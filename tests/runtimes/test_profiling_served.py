"""Pipelines served for a profile: balanced, of two depths, within memory and time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import embedding_bytes, head_bytes, layer_weight_bytes
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.models import bundled_models, load_model
from runtimes.profiling.grid import QUICK_GRID, has_plain_layers
from runtimes.profiling.processor import find_target
from runtimes.profiling.served import (
    FEWER_LAYERS,
    LAYERS,
    Served,
    depths,
    served_pipelines,
    served_timings,
    serves_here,
)
from runtimes.profiling.settings import ProfileSettings
from runtimes.profiling.task import checked_task
from runtimes.profiling.timing import QUICK_EFFORT
from tests.runtimes.test_profiling_profiler import CONFIG

MODELS = {name: load_model(name) for name in bundled_models()}
PLAIN = sorted(name for name, spec in MODELS.items() if has_plain_layers(spec))
"""Models of which pipelines are served: those of other layers are timed in parts alone."""

models = st.sampled_from(PLAIN).map(MODELS.__getitem__)
formats = st.sampled_from(("bf16", "int8", "int4", "int3"))


@given(models, formats)
def test_both_stages_have_about_as_much_to_read(model: ModelSpec, format_name: str) -> None:
    layer_bytes = layer_weight_bytes(model.only_kind, FORMATS[format_name])
    for first, last in depths(model, format_name):
        assert 1 <= last <= LAYERS
        assert last <= first <= model.layers
        gap_bytes = last * layer_bytes + head_bytes(model) - first * layer_bytes
        if first < min(model.layers, last + LAYERS):
            assert abs(gap_bytes) <= layer_bytes / 2


@given(models, formats, st.integers(1, 8))
def test_two_depths_differ_by_as_many_layers_at_both_ends(
    model: ModelSpec, format_name: str, layers: int
) -> None:
    deep, shallow = depths(model, format_name)
    assert deep[0] - shallow[0] == deep[1] - shallow[1] == FEWER_LAYERS
    few = depths(model.with_layers(layers), format_name)
    assert len(few) == 1 + (layers > 1)
    assert all(1 <= count <= layers for pair in few for count in pair)


def test_each_visit_is_a_row_of_its_own() -> None:
    spec = MODELS["llama-160m"]
    found = served_pipelines(spec, ("bf16", "int8"), 20, 1e12, with_dense=True)
    points = [point for pipeline in found for point in pipeline.points]
    assert len(set(points)) == len(points) == (2 + 1) * 2 * 4
    assert {point.quant for point in points if point.kernel.endswith("-dense")} == {"bf16"}
    assert {point.kernel for point in points} == {"first", "last", "first-dense", "last-dense"}
    assert served_pipelines(spec, ("bf16",), 0, 1e12) == ()


def test_pipelines_keep_within_memory() -> None:
    spec = MODELS["llama-3.1-8b"]
    deep, shallow = served_pipelines(spec, ("bf16",), 20, 1e12)
    layers_bytes = sum(shallow.layers) * layer_weight_bytes(spec.only_kind, FORMATS["bf16"])
    enough = layers_bytes + embedding_bytes(spec) + head_bytes(spec)
    assert served_pipelines(spec, ("bf16",), 20, enough) == (shallow,)
    assert served_pipelines(spec, ("bf16",), 20, enough - 1) == ()
    assert deep.layers > shallow.layers


def folder_of(path: Path, hidden_size: int) -> str:
    """Return a model folder that is named after its width."""
    folder = path / f"tiny-{hidden_size}"
    folder.mkdir()
    config = CONFIG | {"hidden_size": hidden_size}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def served_with(out: Path, models: tuple[str, ...], longest_call_s: float) -> list[Served | None]:
    """Return what pipelines of all models took, int8 at two depths each."""
    effort = replace(QUICK_EFFORT, longest_call_s=longest_call_s)
    settings = ProfileSettings(out, threads=1, models=models, grid=QUICK_GRID, effort=effort)
    task = checked_task(settings)
    pipelines = [
        pipeline
        for model in task.models.values()
        for pipeline in served_pipelines(model.spec, ("int8",), 4, 1e12)
    ]
    return list(served_timings(pipelines, task, {}))


needs_two_cores = pytest.mark.skipif(
    not serves_here(find_target("cpu", 1)), reason="needs two cores"
)


@needs_two_cores
def test_pipelines_too_slow_to_be_timed_give_nothing(tmp_path: Path) -> None:
    models = (folder_of(tmp_path, 64),)
    assert served_with(tmp_path / "rows.csv", models, 0.0) == [None, None]


@needs_two_cores
def test_pipelines_of_every_model_are_served(tmp_path: Path) -> None:
    models = folder_of(tmp_path, 64), folder_of(tmp_path, 1024)
    found = served_with(tmp_path / "rows.csv", models, 60.0)
    narrow, wide = found[:2], found[2:]
    for small, large in zip(narrow, wide, strict=True):
        assert small is not None
        assert large is not None
        first_decodes = small.timings[0], large.timings[0]
        assert first_decodes[0].median_s < first_decodes[1].median_s
        assert all(one.repeats >= 3 for one in (*small.timings, *large.timings))
