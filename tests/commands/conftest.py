"""Small files of texts and of pictures, as a person would have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from support import small_images, small_texts


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews.csv (said, mood, topic) and bars.safetensors."""
    folder = tmp_path_factory.mktemp("files")
    texts, images = small_texts(400), small_images(300)
    lines = [
        f"{said},{texts.classes[label]},{texts.group_columns[0].categories[code]}"
        for split in texts.splits.values()
        for said, label, code in zip(split.inputs, split.labels, split.groups.codes[:, 0], strict=True)
    ]
    (folder / "reviews.csv").write_text("\n".join(["said,mood,topic", *lines]) + "\n")
    parts = list(images.splits.values())
    tensors = {
        "images": np.concatenate([one.inputs for one in parts]),
        "labels": np.concatenate([one.labels for one in parts]),
        "group.light": np.concatenate([one.groups.codes[:, 0] for one in parts]).astype(np.int64),
    }
    names = {"classes": list(images.classes), "group.light": ["dark", "bright"]}
    save_file(tensors, folder / "bars.safetensors", metadata={name: json.dumps(one) for name, one in names.items()})
    return folder
