"""The null runtime implements the protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.bench.runtimes import runtime

IMAGES = np.zeros((5, 3, 32, 32), dtype=np.float32)


@pytest.mark.parametrize("subject", ["slim", "slim-onnx", "slim-openvino"])
def test_every_image_is_of_the_first_class(subject: str, folders: Path) -> None:
    with runtime("null").open(folders / subject, 1) as session:
        assert session.predict(IMAGES).argmax(1).tolist() == [0] * 5
        assert session.spec.model.classes == ("cat", "dog", "fox")
    with pytest.raises(RuntimeError, match="closed"):
        session.run(IMAGES)
