"""Figures, drawn where Matplotlib is installed, and a hint where it is not."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.report.artifacts import check_figure, write_figure
from tests.services import LIMITS, made_service

HAS_MATPLOTLIB = find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="Matplotlib is not installed")


def test_an_ending_that_is_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_figure(Path("p.pdf"))
    assert str(error.value) == "--plot: expected a file that ends in .png or .svg, got p.pdf"


@pytest.mark.skipif(HAS_MATPLOTLIB, reason="Matplotlib is installed")
def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        check_figure(tmp_path / "p.png")
    assert str(error.value) == "--plot needs Matplotlib: pip install matplotlib"


@needs_matplotlib
@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_same_service_gives_the_same_picture(tmp_path: Path, ending: str, start: bytes) -> None:
    service = made_service(objectives=LIMITS)
    paths = [tmp_path / f"{name}.{ending}" for name in "ab"]
    for path in paths:
        check_figure(path)
        write_figure(path, service)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes().startswith(start)


@needs_matplotlib
def test_a_service_that_refuses_everything_has_a_picture(tmp_path: Path) -> None:
    write_figure(tmp_path / "p.svg", made_service(lengths=(3000, 4000)))
    assert (tmp_path / "p.svg").exists()
