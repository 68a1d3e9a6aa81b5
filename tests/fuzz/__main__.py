"""Command of the fuzzer: ``python -m tests.fuzz --seconds 3600 --seed 1 --out fuzz-faults``."""

import argparse
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from tests.fuzz.inputs import Kind, all_kinds
from tests.fuzz.known import known_inputs
from tests.fuzz.running import Fault, limited_memory, outcome, run_for


def main() -> int:
    """Run the known inputs and then others for a time; return 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="only these; repeatable")
    parser.add_argument("--out", type=Path, default=Path("fuzz-faults"))
    asked = parser.parse_args()
    kinds = [kind for kind in all_kinds() if not asked.kind or kind.name in asked.kind]
    faults: list[Fault] = []

    def tell(fault: Fault) -> None:
        faults.append(fault)
        place = write(fault, asked.out)
        print(f"{fault.kind} {fault.seed}: {place}\n{fault.error}", flush=True)

    for fault in known_faults(kinds):
        tell(fault)
    tried = run_for(asked.seconds, kinds, asked.seed, tell)
    print(f"{tried} inputs of {len(kinds)} kinds, {len(faults)} faults")
    return 1 if faults else 0


def known_faults(kinds: list[Kind]) -> list[Fault]:
    """Return the faults among the inputs that once were some."""
    named, faults = {kind.name: kind for kind in kinds}, []
    with tempfile.TemporaryDirectory(prefix="llmpq-fuzz-") as folder, limited_memory():
        for name, content in known_inputs():
            if name in named:
                error = outcome(named[name], content, Path(folder))
                faults += [] if error is None else [Fault(name, -1, content, error)]
    return faults


def write(fault: Fault, folder: Path) -> Path:
    """Write a failing input down and return where; the same input has the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fault.kind}-{sha256(fault.content).hexdigest()[:8]}"
    path.write_bytes(fault.content)
    return path


if __name__ == "__main__":
    sys.exit(main())
