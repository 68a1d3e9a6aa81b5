"""Measured loss of a whole plan, beside its table's prediction and its target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.quality.measured import MEASURES
from runtimes.quality.candidates import with_plain_format
from runtimes.quality.divergence import Estimate, estimate, has_diverged
from runtimes.quality.measured_model import MeasuredModel, prepared_run
from runtimes.quality.measuring import reference_nats
from runtimes.quality.progress import StreamProgress
from runtimes.quality.settings import QualitySettings
from runtimes.quality.streaming import Run, stream


@dataclass(frozen=True)
class PlanCheck:
    """What a plan was predicted to lose, and what it was measured to lose.

    Attributes:
        measure: unit of the prediction.
        predicted: sum over the plan's layers.
        interval: how far the prediction may be off to either side.
        budget: the most that the plan may lose, in the same unit.
        divergence: measured mean token KL in nats; infinite where the plan diverged.
        reference_nats: cross-entropy of the 16-bit model per token of the text.
        plan_nats: that of the plan; infinite where the plan diverged.
        other_text: what the prediction was measured on, where that is another text.
    """

    measure: str
    predicted: float
    interval: float
    budget: float
    divergence: Estimate
    reference_nats: float
    plan_nats: float
    other_text: str | None

    @property
    def is_comparable(self) -> bool:
        """Whether the prediction is in the measured unit."""
        return self.measure == MEASURES["kl"]

    @property
    def has_diverged(self) -> bool:
        """Whether the plan is of no use."""
        return not math.isfinite(self.divergence.mean)

    @property
    def misses_target(self) -> bool:
        """Whether more is lost than the target and the interval of the prediction allow."""
        allowed = self.budget + self.interval
        return self.has_diverged or (self.is_comparable and self.divergence.mean > allowed)


def check_plan_quality(
    saved: SavedPlan,
    measured_model: MeasuredModel,
    settings: QualitySettings,
    on_run: Callable[[Run], None] = lambda _: None,
    on_progress: Callable[[StreamProgress], None] = lambda _: None,
) -> PlanCheck:
    """Return what a plan loses on a text, all its layers in their formats.

    Args:
        saved: the plan.
        measured_model: the model and the text.
        settings: the quantizers among them should be the plan's.
        on_run: told what is begun, before it is.
        on_progress: told how much of it is done.

    Raises:
        LlmpqError: the plan is of another model, or the measurement cannot be made.
    """
    check_model(saved.task.costs.scenario.model, measured_model.spec)
    formats = saved.plan.layer_formats
    candidate = with_plain_format(formats, measured_model.plain)
    run = prepared_run(measured_model, [candidate], settings)
    on_run(run)
    compared = stream(run, resume=settings.resume, on_progress=on_progress)
    nats = compared.divergence_nats[0].tolist()
    diverged = has_diverged(nats)
    table = saved.task.quality
    return PlanCheck(
        measure=table.measure,
        predicted=table.plan_loss(formats),
        interval=table.interval(formats),
        budget=saved.task.budget,
        divergence=Estimate(math.inf, 0.0) if diverged else estimate(nats),
        reference_nats=reference_nats(compared),
        plan_nats=(
            math.inf if diverged else estimate(compared.cross_entropy_nats[1].tolist()).mean
        ),
        other_text=_other_text(saved, measured_model),
    )


def _other_text(saved: SavedPlan, measured_model: MeasuredModel) -> str | None:
    """Return the name of the text that a plan's losses were measured on, unless it is this one."""
    measured = saved.target.measured
    if measured is None or measured.text.sha256 == measured_model.windows.text.sha256:
        return None
    return measured.text.name


def check_model(planned: ModelSpec, found: ModelSpec) -> None:
    """Check that a plan is for a model of these shapes, whatever they are called.

    Raises:
        InputError: it is for another.
    """
    alike = replace(
        found, name=planned.name, dtype=planned.dtype, max_positions=planned.max_positions
    )
    if alike != planned:
        raise InputError(
            f"--plan: is of {planned.name}, {planned.layers} layers of width "
            f"{planned.hidden_size}; the model in MODEL_DIR is {found.name}, {found.layers} layers "
            f"of width {found.hidden_size}, or of other matrices"
        )
