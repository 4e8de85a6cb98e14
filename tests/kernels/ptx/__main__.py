"""Run every check on the PTX of sm_90: prints a JSON object of names and errors, null where there is none.

`python -m tests.kernels.ptx SEED [NAME...]`
"""

import json
import sys
import time

import torch

from .checks import CHECKS, MUTANTS
from .route import execute_launches


def main() -> None:
    torch.set_num_threads(1)
    checks = {**CHECKS, **MUTANTS}
    names = execute_launches(int(sys.argv[1]))
    errors: dict[str, str | None] = dict.fromkeys(sys.argv[2:] or checks)
    for name in errors:
        start = time.perf_counter()
        try:
            checks[name]()
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    json.dump({"errors": errors, "kernels": sorted(names)}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
