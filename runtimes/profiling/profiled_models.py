"""Profiled models: shapes for us and for transformers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.bundled_models import bundled_models, bundled_record
from llmpq_sim.io.files import read_json
from llmpq_sim.io.models import load_model


@dataclass(frozen=True)
class ProfiledModel:
    """A model whose shapes are timed.

    Attributes:
        spec: its shapes.
        config: as transformers reads it.
        source: the name or path that it was loaded by.
    """

    spec: ModelSpec
    config: Any
    source: str


def load_profiled(name_or_path: str) -> ProfiledModel:
    """Return a bundled model by name, or the model of a folder or a config.json.

    Raises:
        InputError: there is none, or its config.json says something that cannot be.
    """
    spec = load_model(name_or_path)
    content = dict(_content(name_or_path))
    kind = content.pop("model_type")
    return ProfiledModel(spec, AutoConfig.for_model(kind, **content), name_or_path)


def _content(name_or_path: str) -> dict[str, Any]:
    if name_or_path in bundled_models():
        return dict(bundled_record(name_or_path).config)
    path = Path(name_or_path)
    content = read_json(path / "config.json" if path.is_dir() else path)
    return content if isinstance(content, dict) else {}
