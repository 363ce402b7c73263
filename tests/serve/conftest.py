from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from assay.evidence.signing import Signer
from assay.serve.admission import Served, admit
from assay.values import Data, System
from serve_kit import Caller, calling, file_tiny, tiny_system


@pytest.fixture(autouse=True)
def no_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or makes the keys of whoever runs it."""
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ASSAY_SERVE_KEY", raising=False)
    monkeypatch.delenv("ASSAY_TRUSTED_KEY", raising=False)


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.fixture(scope="session")
def tiny(small_data: Data) -> System:
    return tiny_system(small_data)


@pytest.fixture(scope="session")
def passed(tiny: System, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dossier that passed. Tests that change it copy it first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(tmp_path_factory.mktemp("home")))
        return file_tiny(tiny, tmp_path_factory.mktemp("dossiers") / "passed", signer)


@pytest.fixture(scope="session")
def served(passed: Path) -> Served:
    return admit(passed)


@pytest.fixture
def caller(served: Served) -> Iterator[Caller]:
    with calling(served) as one:
        yield one
