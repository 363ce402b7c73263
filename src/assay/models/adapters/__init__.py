"""Models made elsewhere: one file per way in. Optional packages are imported only when used."""

from assay.models.adapters import minilm, sentence_encoder  # they register themselves
from assay.models.adapters.endpoint import CallableModel, Connection, HttpModel
from assay.models.adapters.gguf import GgufModel, load_gguf
from assay.models.adapters.hugging_face import load_hugging_face
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import OnnxModel, export_onnx, load_onnx
from assay.models.adapters.python import load_callable
from assay.models.adapters.refuse import check_format
from assay.models.adapters.sklearn import SklearnModel

__all__ = [
    "CallableModel",
    "Connection",
    "GgufModel",
    "HttpModel",
    "ModuleModel",
    "OnnxModel",
    "SklearnModel",
    "check_format",
    "export_onnx",
    "load_callable",
    "load_gguf",
    "load_hugging_face",
    "load_onnx",
    "minilm",
    "sentence_encoder",
]
