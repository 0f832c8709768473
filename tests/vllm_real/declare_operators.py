"""For the environment of the real vLLM on a machine without a GPU: makes torchvision importable there.

The registries' torchvision is built for CUDA and describes two of its operators at import, which a torch without CUDA
does not have. They are declared, never called: a processor only resizes and normalises. `make vllm-env` copies this
into the environment with a .pth file that imports it.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

SIGNATURE = "torchvision::{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class BeforeTorchvision(MetaPathFinder):
    """Asked where modules are found; finds none, but is told when torchvision is about to be imported."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare()


def declare() -> None:
    import torch

    if torch.version.cuda:
        return
    for name in ("nms", "qnms"):
        signature = SIGNATURE.format(name)
        torch.library.define(signature.partition("(")[0], signature[signature.index("(") :])


sys.meta_path.insert(0, BeforeTorchvision())
