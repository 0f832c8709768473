"""`cfbus` with workers that have the stub in place of vLLM: for the comparison's `cfbus run`.

python -m benchmarks.versus_run run PHOTOS --out captions --set captions.engine=vllm --set vllm.model=stub
"""

from __future__ import annotations

from collections.abc import Sequence

from cfbus.tools import family, main

_start = family.Family.start


def _start_stub(self: family.Family, name: str, module: str, arguments: Sequence[str]) -> family.Child:
    return _start(self, name, "benchmarks.versus_worker" if module == "cfbus.daemons.gpu" else module, arguments)


if __name__ == "__main__":
    vars(family)["Family"].start = _start_stub
    main.main()
