"""Presets of synthetic workloads, in YAML."""

from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header, kind_of
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name
from llmpq_sim.workloads.arrivals import (
    CONSTANT,
    ArrivalProcess,
    BurstArrivals,
    GammaArrivals,
    LognormalDelay,
    Modulation,
    PoissonBursts,
)
from llmpq_sim.workloads.conversations import Conversations
from llmpq_sim.workloads.generate import Preset, RequestClass
from llmpq_sim.workloads.lengths import (
    BatchShare,
    LengthLaw,
    LengthTable,
    Lognormal,
    Normal,
    RequestLengths,
    Uniform,
)

ENDING = ".yaml"
RATES_PER_S = (1e-6, 1e3)
SHAPES = (0.01, 1e3)
SECONDS = (1e-9, 1e9)
BURSTS = (1.0, 1e5)
SHARES = (0.0, 0.9999)
SIGMAS = (0.0, 5.0)
VARIATIONS = (0.0, 100.0)
LOG_TOKENS = (0.0, 16.0)
"""Bounds of numbers, within which draws are neither all alike nor more than can be held."""

MOST_GOING_ON = 0.95
"""At this share, conversations go on for 19 more turns on average."""

PROCESSES = ("gamma", "bursts", "poisson-bursts")
LAWS = ("lognormal", "normal", "uniform", "batch-share")


def preset_names() -> tuple[str, ...]:
    """Return the names of the bundled presets."""
    return bundled_names("traces", "", ENDING)


def load_preset(name: str) -> Preset:
    """Return a bundled preset by name, or one of the user's by path.

    Raises:
        InputError: there is none, or its file says something that cannot be.
    """
    if is_path(name, (ENDING, ".yml")):
        path = Path(name)
    elif name in preset_names():
        path = bundled_dir("traces") / f"{name}{ENDING}"
    else:
        raise unknown_name("--trace", "the name of a workload", name, preset_names())
    return preset_from_content(read_yaml(path), path.name)


def preset_from_content(content: object, where: str) -> Preset:
    """Return a preset from a file's content.

    Raises:
        InputError: it says something that cannot be.
    """
    with Fields(content, where) as fields:
        check_header(fields, "llmpq/workload", 1)
        classes = tuple(_class(item) for item in fields.each("classes"))
        conversations = None
        if fields.has("conversations"):
            conversations = _conversations(fields.fields("conversations"))
        preset = Preset(
            name=fields.text("name"),
            source=fields.text("source"),
            requests=fields.integer("requests"),
            classes=classes,
            conversations=conversations,
            resolution_s=_within(fields, "resolution_s", SECONDS)
            if fields.has("resolution_s")
            else None,
        )
    _check(preset, where)
    return preset


def _check(preset: Preset, where: str) -> None:
    kinds = preset.classes
    if not kinds:
        raise InputError(f"{where}.classes: expected at least one class, got none")
    if len({kind.name for kind in kinds}) < len(kinds):
        raise InputError(f"{where}.classes: expected classes of different names")
    if len({kind.arrivals is None for kind in kinds}) > 1:
        raise InputError(f"{where}.classes: expected arrivals for all classes or for none")
    alone = len(kinds) == 1 and isinstance(kinds[0].arrivals, GammaArrivals)
    if preset.conversations is not None and not alone:
        raise InputError(f"{where}.conversations: expected one class with gamma arrivals")


def _class(fields: Fields) -> RequestClass:
    with fields:
        return RequestClass(
            name=fields.text("name"),
            lengths=RequestLengths(_law(fields, "prompt"), _outputs(fields)),
            arrivals=_arrivals(fields.fields("arrivals")) if fields.has("arrivals") else None,
        )


# ---- lengths


def _outputs(fields: Fields) -> tuple[tuple[int | None, LengthLaw], ...]:
    if fields.has("output"):
        return ((None, _law(fields, "output")),)
    outputs = []
    for item in fields.each("outputs"):
        with item:
            below = item.integer("prompt_below") if item.has("prompt_below") else None
            outputs.append((below, _law(item, "output")))
    bounds = [below for below, _ in outputs]
    finite = [below for below in bounds[:-1] if below is not None]
    if not bounds or bounds[-1] is not None or sorted(set(finite)) != bounds[:-1]:
        raise InputError(
            f"{fields.where}.outputs: expected rising prompt_below, and none in the last entry"
        )
    return tuple(outputs)


def _law(fields: Fields, name: str) -> LengthLaw:
    """Return a law: a count, a table such as ``0:6 0.5:13 1:1899``, or a mapping that names it."""
    value, where = fields.value(name), f"{fields.where}.{name}"
    if isinstance(value, str):
        return _table(value, where)
    if not isinstance(value, dict):
        tokens = fields.integer(name)
        return Uniform(tokens, tokens)
    with fields.fields(name) as law:
        match law.choice("law", LAWS):
            case "lognormal":
                return Lognormal(
                    _within(law, "mu", LOG_TOKENS),
                    _within(law, "sigma", SIGMAS),
                    law.integer("most_tokens"),
                )
            case "normal":
                return Normal(
                    law.number("mean_tokens"), law.number("deviation_tokens", positive=False)
                )
            case "uniform":
                least = law.integer("least_tokens")
                return Uniform(least, law.integer("most_tokens", least=least))
            case _:
                return BatchShare(law.integer("tokens"), law.fraction("least_share"))


def _table(text: str, where: str) -> LengthTable:
    knots = []
    for knot in text.split():
        share, _, tokens = knot.partition(":")
        try:
            knots.append((float(share), float(tokens)))
        except ValueError:
            raise InputError(
                f"{where}: expected knots such as 0.5:1024, got {kind_of(knot)}"
            ) from None
    try:
        return LengthTable(tuple(knots))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


# ---- arrivals


def _arrivals(fields: Fields) -> ArrivalProcess:
    with fields:
        match fields.choice("process", PROCESSES):
            case "gamma":
                return _gamma(fields)
            case "bursts":
                return _bursts(fields)
            case _:
                return _poisson_bursts(fields)


def _poisson_bursts(fields: Fields) -> PoissonBursts:
    return PoissonBursts(
        _within(fields, "rate_per_s", RATES_PER_S), _within(fields, "mean_requests", BURSTS)
    )


def _gamma(fields: Fields) -> GammaArrivals:
    profile = fields.numbers("hour_profile", ())
    if profile and (len(profile) != 24 or min(profile) <= 0):
        raise InputError(f"{fields.where}.hour_profile: expected 24 positive numbers")
    return GammaArrivals(
        rate_per_s=_within(fields, "rate_per_s", RATES_PER_S),
        shape=_within(fields, "shape", SHAPES) if fields.has("shape") else 1.0,
        modulation=_modulation(fields.fields("modulation"))
        if fields.has("modulation")
        else CONSTANT,
        hour_profile=profile,
        trend=_within(fields, "trend", SHARES) if fields.has("trend") else 0.0,
        normalized=fields.flag("normalized", False),
    )


def _modulation(fields: Fields) -> Modulation:
    with fields:
        return Modulation(
            window_s=_within(fields, "window_s", SECONDS),
            variation=_within(fields, "variation", VARIATIONS),
            persistence=_within(fields, "persistence", SHARES),
        )


def _bursts(fields: Fields) -> BurstArrivals:
    delays = []
    for item in fields.each("delays"):
        weight = item.fraction("weight")
        delays.append((weight, _delay(item)))
    if not delays:
        raise InputError(f"{fields.where}.delays: expected at least one delay, got none")
    return BurstArrivals(
        median_requests=_within(fields, "median_requests", BURSTS),
        sigma=_within(fields, "sigma", SIGMAS),
        most_requests=fields.integer("most_requests"),
        pause=_delay(fields.fields("pause")),
        delays=tuple(delays),
    )


def _delay(fields: Fields) -> LognormalDelay:
    with fields:
        return LognormalDelay(
            median_s=_within(fields, "median_s", SECONDS),
            sigma=_within(fields, "sigma", SIGMAS),
            most_s=_within(fields, "most_s", SECONDS),
            least_s=_within(fields, "least_s", SECONDS) if fields.has("least_s") else 0.0,
        )


# ---- conversations


def _conversations(fields: Fields) -> Conversations:
    with fields:
        another = fields.numbers("another_turn")
        if not another or not all(0 <= share <= MOST_GOING_ON for share in another):
            raise InputError(
                f"{fields.where}.another_turn: expected shares from 0 to {MOST_GOING_ON}"
            )
        return Conversations(
            block_tokens=fields.integer("block_tokens"),
            shared_blocks=fields.integer("shared_blocks", least=0),
            another_turn=another,
            gap=_delay(fields.fields("gap")),
            growth=_law(fields, "growth"),
            most_prompt_tokens=fields.integer("most_prompt_tokens"),
        )


def _within(fields: Fields, name: str, bounds: tuple[float, float]) -> float:
    value, (least, most) = fields.signed(name), bounds
    if not least <= value <= most:
        raise InputError(
            f"{fields.where}.{name}: expected a number of {least:g} to {most:g}, got {value:g}"
        )
    return value
