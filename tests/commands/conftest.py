"""Small files of texts and of pictures, as a person would have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_kit import write_pictures, write_reviews
from support import small_images, small_texts


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews.csv (said, mood, topic) and bars.safetensors."""
    folder = tmp_path_factory.mktemp("files")
    write_reviews(folder / "reviews.csv", small_texts(400))
    write_pictures(folder / "bars.safetensors", small_images(300))
    return folder
