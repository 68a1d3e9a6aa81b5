"""Proven limits on a service's rate, as plan files hold them."""

from typing import Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import sha256_of
from llmpq_sim.search.bound.rate_certificate import RateCertificate
from llmpq_sim.search.bound.rate_workload import RateWorkload
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


def rate_to_dict(certificate: RateCertificate) -> dict[str, Any]:
    """Return a certificate as plain data, with the hash of what it is about."""
    content = to_dict(certificate)
    return {**content, "sha256": sha256_of(content["workload"])}


def rate_from_dict(fields: Fields, model: ModelSpec) -> RateCertificate:
    """Return the certificate that `rate_to_dict` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be, or the workload was changed.
    """
    stated, found = fields.text("sha256"), sha256_of(fields.value("workload"))
    if stated != found:
        raise InputError(
            f"{fields.where}.workload: was changed after the plan was made (SHA-256 {found[:12]}, "
            f"stated {stated[:12]}); make a new plan with llmpq search"
        )
    certificate = from_dict(RateCertificate, fields)
    _check(certificate.workload, model, f"{fields.where}.workload")
    return certificate


def serving_from_dict(
    fields: Fields, model: ModelSpec
) -> tuple[ContinuousSettings, RateCertificate | None]:
    """Return the settings of a plan for a trace, and the proven limit on the rate of any plan.

    What else is said of it is for readers.
    """
    settings = from_dict(ContinuousSettings, fields.fields("settings"))
    rate = rate_from_dict(fields.fields("bound"), model) if fields.has("bound") else None
    fields.ignore_rest()
    return settings, rate


def _check(workload: RateWorkload, model: ModelSpec, where: str) -> None:
    """Raise InputError for sums that no requests have."""
    longest = workload.longest_request_tokens
    steps, prompts = workload.attending_steps, workload.attended_prompts
    attended, shortest = workload.attended_contexts, workload.shortest_context
    for name, figure, least, most in (
        ("longest_request_tokens", longest, 2, model.max_positions),
        ("longest_prompt", workload.longest_prompt, 1, longest),
        ("longest_context", workload.longest_context, 1, longest),
        ("shortest_context", shortest, 1, workload.longest_context),
        ("attended_contexts", attended, steps * shortest, steps * workload.longest_context),
        ("attended_squares", workload.attended_squares, prompts, prompts * workload.longest_prompt),
    ):
        if not least <= figure <= most:
            raise InputError(f"{where}.{name}: expected {least} to {most}, got {figure}")
