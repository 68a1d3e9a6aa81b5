"""Command `llmpq quality`: parse, call, print.

Like the other commands it imports what it needs when it runs.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from llmpq_sim.quality.measured import MeasuredQuality
    from runtimes.quality.settings import QualitySettings
    from runtimes.quality.streaming import Run

Method = Literal["kl", "variance", "variance-stochastic", "hessian"]

DEFAULT_OUT = Path("quality.json")
DEFAULT_CHECK = 8


def quality(
    model_dir: Annotated[
        Path, typer.Argument(help="Folder of the model, as Hugging Face lays it out.")
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text to measure on, UTF-8; best one like what will be served. Default: a bundled "
            "one of general English."
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="Measured KL (default), or an indicator from one pass."),
    ] = None,
    formats: Annotated[
        str | None, typer.Option(help="As int4,int8; default: all that quantize.")
    ] = None,
    quantizer: Annotated[
        str | None, typer.Option(help="hqq, or as int4=hqq,int3=rtn; default: round to nearest.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Measure this plan instead, against its prediction.")
    ] = None,
    window_tokens: Annotated[int, typer.Option(help="Of each window of the text.", min=2)] = 512,
    windows: Annotated[
        int, typer.Option(help="At most; drawn where the text has more.", min=1)
    ] = 16,
    check: Annotated[
        int | None,
        typer.Option(help="Mixed assignments to measure whole, to judge sums; default: 8.", min=0),
    ] = None,
    dtype: Annotated[
        Literal["bf16", "fp16", "fp32"] | None,
        typer.Option(help="Of all that is not quantized; default: the model's."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of all draws.", min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Where the losses are written; default: quality.json.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run, if there is one.")
    ] = False,
    profile: Annotated[
        list[Path] | None,
        typer.Option(help="Latency profile of your own that --plan was made with; repeatable."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of text.")
    ] = False,
) -> None:
    """Measure how much quality each layer loses in each format, or what a whole plan loses."""
    _check_options(plan, method, formats, quantizer, check, out, resume=resume)
    from runtimes.quality.settings import QualitySettings, chosen_formats
    from runtimes.torch_pipeline.weights.quantizers import parse_quantizers

    settings = QualitySettings(
        model_dir=model_dir,
        text=text,
        formats=chosen_formats(formats),
        quantizers=parse_quantizers(quantizer) if quantizer else {},
        window_tokens=window_tokens,
        windows=windows,
        check=DEFAULT_CHECK if check is None else check,
        dtype=dtype,
        device=device,
        seed=seed,
        work_dir=_work_dir(plan or out or DEFAULT_OUT),
        resume=resume,
    )
    try:
        if plan is not None:
            _measure_plan(plan, settings, profile or [], as_json=as_json)
        else:
            _measure_layers(out or DEFAULT_OUT, settings, method or "kl", as_json=as_json)
    except KeyboardInterrupt:
        _interrupted(settings)


def _check_options(
    plan: Path | None,
    method: str | None,
    formats: str | None,
    quantizer: str | None,
    check: int | None,
    out: Path | None,
    *,
    resume: bool,
) -> None:
    """Raise InputError where an option has no meaning beside others, or nothing can be written."""
    from llmpq_sim.core.errors import InputError
    from llmpq_sim.io.files import check_writable

    said_by_plan = {
        "--method": method not in (None, "kl"),
        "--formats": formats is not None,
        "--quantizer": quantizer is not None,
        "--check": check is not None,
        "--out": out is not None,
    }
    only_kl = {"--check": check is not None, "--resume": resume}
    check_writable(out or DEFAULT_OUT)
    if plan is not None:
        for name in (name for name, is_given in said_by_plan.items() if is_given):
            raise InputError(f"{name}: goes without --plan, whose KL is measured as it is")
    elif method not in (None, "kl"):
        for name in (name for name, is_given in only_kl.items() if is_given):
            raise InputError(f"{name}: goes with --method kl; {method} takes a single pass")


def _work_dir(path: Path) -> Path:
    return path.with_name(f"{path.name}.work")


def _interrupted(settings: "QualitySettings") -> NoReturn:
    kept = ""
    if (settings.work_dir / "progress.json").exists():
        kept = f"; whole layers are kept in {settings.work_dir}, --resume does the rest"
    print(f"interrupted{kept}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(130) from None


def _measure_layers(
    out: Path, settings: "QualitySettings", method: Method, *, as_json: bool
) -> None:
    from llmpq_sim.io.quality import write_quality
    from llmpq_sim.report.output import answer_console, print_json
    from runtimes.quality.measured_model import open_measured_model
    from runtimes.quality.report import quality_content, show_quality
    from runtimes.quality.streams import remove_streams

    measured_model = open_measured_model(settings)
    measured = _measured(measured_model, settings, method)
    write_quality(out, measured)
    remove_streams(settings.work_dir)
    layers = measured_model.spec.layers
    if as_json:
        print_json(quality_content(measured, layers, str(out)))
        return
    show_quality(answer_console(), measured, layers, str(out), str(settings.model_dir))


def _measured(
    measured_model: "MeasuredModel", settings: "QualitySettings", method: Method
) -> "MeasuredQuality":
    from runtimes.quality.indicating import measure_indicator
    from runtimes.quality.measuring import measure_kl
    from runtimes.quality.report import pass_text, quality_progress

    with quality_progress(sys.stderr.isatty()) as on_progress:
        if method == "kl":
            return measure_kl(measured_model, settings, _tell, on_progress)
        print(pass_text(measured_model), file=sys.stderr)  # noqa: T201
        return measure_indicator(measured_model, settings, method, on_progress)


def _measure_plan(
    plan: Path, settings: "QualitySettings", profiles: list[Path], *, as_json: bool
) -> None:
    from dataclasses import replace

    from llmpq_sim.io.plans import load_plan
    from llmpq_sim.io.profiles import load_profiles
    from llmpq_sim.report.output import answer_console, print_json
    from runtimes.quality.check_report import check_content, missed_text, show_check
    from runtimes.quality.measured_model import open_measured_model
    from runtimes.quality.plan_check import check_plan_quality
    from runtimes.quality.report import quality_progress
    from runtimes.quality.streams import remove_streams

    saved = load_plan(plan, load_profiles(profiles))
    settings = replace(settings, quantizers=saved.quantizers)
    measured_model = open_measured_model(settings)
    with quality_progress(sys.stderr.isatty()) as on_progress:
        found = check_plan_quality(saved, measured_model, settings, _tell, on_progress)
    remove_streams(settings.work_dir)
    if as_json:
        print_json(check_content(found, measured_model.windows.text))
    else:
        show_check(answer_console(), found, measured_model.windows.text)
    if found.misses_target:
        print(f"error: {missed_text(found)}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1)


def _tell(run: "Run") -> None:
    """Say on stderr how much there is to do, before it is begun."""
    from runtimes.quality.report import run_text

    print(run_text(run), file=sys.stderr)  # noqa: T201
