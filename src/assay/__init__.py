"""assay: build AI models and answer for them.

Names are imported when they are first used, so that `assay --help` needs neither torch nor NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.data import load_adult, read_table
    from assay.dossier import verify_dossier
    from assay.models.adapters.endpoint import CallableModel, HttpModel
    from assay.models.adapters.module import ModuleModel
    from assay.models.adapters.onnx import load_onnx
    from assay.models.adapters.sklearn import SklearnModel
    from assay.policy import load_policy
    from assay.registry import probe, treatment
    from assay.report import write_report
    from assay.story import audit, compare_treatments, file, system_of, treat
    from assay.train.system import train_system
    from assay.values import Measurement, System

__version__ = "0.1.0"
_HOME = {
    "CallableModel": "assay.models.adapters.endpoint",
    "HttpModel": "assay.models.adapters.endpoint",
    "Measurement": "assay.values",
    "ModuleModel": "assay.models.adapters.module",
    "SklearnModel": "assay.models.adapters.sklearn",
    "System": "assay.values",
    "audit": "assay.story",
    "compare_treatments": "assay.story",
    "file": "assay.story",
    "load_adult": "assay.data",
    "load_onnx": "assay.models.adapters.onnx",
    "load_policy": "assay.policy",
    "probe": "assay.registry",
    "read_table": "assay.data",
    "system_of": "assay.story",
    "train_system": "assay.train.system",
    "treat": "assay.story",
    "treatment": "assay.registry",
    "verify_dossier": "assay.dossier",
    "write_report": "assay.report",
}

__all__ = [
    "CallableModel",
    "HttpModel",
    "Measurement",
    "ModuleModel",
    "SklearnModel",
    "System",
    "audit",
    "compare_treatments",
    "file",
    "load_adult",
    "load_onnx",
    "load_policy",
    "probe",
    "read_table",
    "system_of",
    "train_system",
    "treat",
    "treatment",
    "verify_dossier",
    "write_report",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'assay' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
