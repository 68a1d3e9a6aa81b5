"""Build hook of the wheel: ``cli`` and ``runtimes`` under a name that begins with ``llmpq``.

A checkout has both at the top, and an editable install uses them from there. In a wheel they lie in
``llmpq_sim/_modules``, and a line in ``llmpq.pth`` appends this folder to the path, so that nothing
of another package is overwritten and nothing of it hidden. See ``llmpq.py``.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = "llmpq_sim/_modules"


class Modules(BuildHookInterface):
    """Puts what the top of a checkout has into the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the modules and the line for the path, unless the install is an editable one."""
        if version != "standard":
            return
        line = Path(self.directory) / "llmpq.pth"
        line.parent.mkdir(parents=True, exist_ok=True)
        line.write_text(f"{MODULES}\n", encoding="ascii")
        build_data["force_include"] |= {"cli.py": f"{MODULES}/cli.py", str(line): "llmpq.pth"}

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact: str) -> None:
        """Remove the file that was made for the wheel."""
        (Path(self.directory) / "llmpq.pth").unlink(missing_ok=True)
