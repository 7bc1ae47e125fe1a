"""PyTorch's own export (`torch.export`): `model.pt2`, for PyTorch without this toolkit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from toolkit.export import Abilities, Target, Written
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE = "model.pt2"


class TorchExport:
    """See the module."""

    runtime = "torch"

    def abilities(self) -> Abilities:
        return Abilities(
            precisions=("fp32", "fp16", "bf16"),
            opsets=(17, 23),
            opset=20,
            attention=("decomposed",),
            lacking={"int8": "Q/DQ is written into ONNX graphs only"},
        )

    def check(self, options: recipe.Export) -> None:
        """It has no settings of its own."""

    def depends_on(self) -> dict[str, str]:
        """Nothing: other versions read it too."""
        return {}

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the program, load it again, and compare it with torch."""
        from toolkit.export import check
        from toolkit.export.prepare import random_images

        fixed = len(options.batch_size) == 1
        batch = options.batch_size[0] if fixed else 2
        example = torch.from_numpy(random_images(prepared.info, options, batch))
        shapes = None if fixed else ({0: torch.export.Dim("batch")},)
        program = torch.export.export(prepared.module, (example,), dynamic_shapes=shapes)
        torch.export.save(program, out / FILE)
        loaded = torch.export.load(out / FILE).module()
        with torch.inference_mode():
            found = check.difference(prepared, options, lambda images: loaded(torch.from_numpy(images)).numpy())
        return Written(FILE, difference=found)


PLUGIN: Target = TorchExport()
