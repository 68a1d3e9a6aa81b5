"""Process that renders chat templates, with limits on its time and memory.

A line on stdin is ``{"template": …, "tokens": {…}, "messages": […], "cpu_s": …}``; the answer on
stdout is ``{"text": …}``, ``{"refused": …}`` where the template itself refuses, or
``{"failed": …}``. A template that takes too long ends the process.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, TextIO

from llmpq_sim.core.limits import TEMPLATE_BYTES
from llmpq_sim.core.units import MIB

MEMORY = Path("/proc/self/statm")


def main() -> None:
    """Answer lines until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else prints, prints there
    # both are slow to import, and are limited only once they are there
    from jinja2.exceptions import TemplateError  # noqa: F401, PLC0415
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: F401, PLC0415

    _limit_memory()
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        _limit_time(asked["cpu_s"])
        _answer(answers, _rendered(asked))


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


def _rendered(asked: dict[str, Any]) -> dict[str, Any]:
    from jinja2.exceptions import TemplateError  # noqa: PLC0415
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

    try:
        texts, _ = render_jinja_template(
            conversations=[asked["messages"]],
            chat_template=asked["template"],
            add_generation_prompt=True,
            **asked["tokens"],
        )
        return {"text": str(texts[0])}
    except TemplateError as error:
        return {"refused": str(error)[:1000]}
    except MemoryError:
        return {"failed": f"it needs more than {TEMPLATE_BYTES // MIB} MiB"}
    except Exception as error:  # a template is a program: it can raise whatever Python can
        return {"failed": f"{type(error).__name__}: {error}"[:1000]}


def _limit_memory() -> None:
    """Allow so much more address space than is taken already."""
    if MEMORY.exists():
        taken = int(MEMORY.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, taken + TEMPLATE_BYTES)


def _limit_time(cpu_s: int) -> None:
    """Allow so much more processor time than was taken already; beyond it the system ends us."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (allowed, hard))


if __name__ == "__main__":
    main()
