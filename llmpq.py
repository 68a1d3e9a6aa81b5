"""Program `llmpq`: what the installed command and ``python -m llmpq`` run.

In a checkout the modules ``cli`` and ``runtimes`` lie beside this one. A wheel keeps them in the
folder ``llmpq_sim/_modules``, so that site-packages holds only names that begin with ``llmpq``, and
``llmpq.pth`` appends that folder to the path of every process. Here it comes first: a package of
someone else's that is called ``runtimes``, or a folder of that name where the command is given, is
never taken for ours.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALLED = HERE / "llmpq_sim" / "_modules"


def main() -> None:
    """Run the command line and exit."""
    sys.path.insert(0, str(INSTALLED if INSTALLED.is_dir() else HERE))
    try:
        from cli import main as run

        run()
    except KeyboardInterrupt:  # before a command has begun
        print("interrupted; nothing was written", file=sys.stderr)  # noqa: T201
        sys.exit(130)


if __name__ == "__main__":
    main()
