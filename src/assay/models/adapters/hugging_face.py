"""Text and image classifiers of Hugging Face transformers, from a folder on this machine; nothing is fetched."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.adapters._hf_folder import Folder, open_folder
from assay.models.adapters._tokenizer import as_buffer, longest, token_ids, token_spans
from assay.models.adapters.module import ModuleModel, OutputsAre, evaluation
from assay.parts import modality
from assay.values import Array, Column, Task

__all__ = ["HuggingFaceImages", "HuggingFaceTexts", "load_hugging_face"]

BATCH_SIZE = 64
AUTO = {"text": "AutoModelForSequenceClassification", "image": "AutoModelForImageClassification"}
NEEDS = {"text": "tokenizer.json", "image": "preprocessor_config.json"}
INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class HuggingFaceTexts(nn.Module):
    """A sequence classifier on raw texts `(N,)`: its own tokenizer, and outputs in the order of the data's classes.

    Tokens are ids plus 1, so that 0 is padding whatever the model's own padding id is. Where the model answers the
    same from word vectors as from ids (tried when it is loaded), gradients can be taken at the embeddings.
    """

    vocabulary: Tensor

    def __init__(self, config: Mapping[str, Any], *, order: Sequence[int], max_length: int, embeds: bool) -> None:
        super().__init__()
        self.model: Any = _empty("text", config)
        self.order, self.max_length, self.embeds = list(order), max_length, embeds
        padding = getattr(self.model.config, "pad_token_id", None)
        self.padding = 0 if padding is None else int(padding)
        self.register_buffer("vocabulary", as_buffer(b""))

    def encode(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids plus 1, `(N, L)` int64, padded with 0."""
        return token_ids(self.vocabulary, inputs, self.max_length, shift=1)

    def embed(self, tokens: Tensor) -> Tensor:
        """`(N, L)` to word vectors `(N, L', D)`, L' the longest row."""
        embedded: Tensor = self.model.get_input_embeddings()(self._ids(tokens))
        return embedded

    def from_embeddings(self, embedded: Tensor, tokens: Tensor) -> Tensor:
        """Word vectors to outputs `(N, K)`."""
        seen = (tokens[:, : embedded.shape[1]] > 0).long()
        outputs: Tensor = self.model(inputs_embeds=embedded, attention_mask=seen).logits
        return outputs[:, self.order]

    def token_ids(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to token ids plus 1, `(N, L)`."""
        return self.encode(inputs)

    def token_vectors(self, tokens: Tensor) -> Tensor:
        """What `embed` gives."""
        return self.embed(tokens)

    def from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """What `from_embeddings` gives."""
        return self.from_embeddings(vectors, tokens)

    def token_spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """Where each token stands in its text; see `assay.models.vectors`."""
        return token_spans(self.vocabulary, inputs, self.max_length)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens `(N, L)` to outputs `(N, K)`."""
        if self.embeds:
            return self.from_embeddings(self.embed(tokens), tokens)
        ids = self._ids(tokens)
        outputs: Tensor = self.model(input_ids=ids, attention_mask=(tokens[:, : ids.shape[1]] > 0).long()).logits
        return outputs[:, self.order]

    def _ids(self, tokens: Tensor) -> Tensor:
        kept = tokens[:, : longest(tokens)]
        return torch.where(kept > 0, kept - 1, self.padding)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(prefix + "vocabulary")
        if isinstance(stored, Tensor):  # its length is the file's, not the builder's
            self.vocabulary = torch.zeros(stored.shape, dtype=torch.uint8)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class HuggingFaceImages(nn.Module):
    """An image classifier on raw pixels `(N, C, H, W)` from 0 to 255; resizing and scaling are inside `forward`.

    Limits: resizing is torch's own (antialiased), which differs from Pillow's in the last digits; no centre crop.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any], *, order: Sequence[int], scaling: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = _empty("image", config)
        self.order, self.scaling = list(order), dict(scaling)
        self.register_buffer("mean", torch.tensor(scaling["mean"])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(scaling["std"])[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K)`; one channel is repeated where the model wants three."""
        values = pixels.to(self.mean.dtype)
        if self.scaling["size"] and list(values.shape[2:]) != self.scaling["size"]:
            mode, size = self.scaling["mode"], self.scaling["size"]
            values = functional.interpolate(values, size, mode=mode, antialias=mode != "nearest")
        values = (values * self.scaling["factor"]).expand(-1, self.scaling["channels"], -1, -1)
        outputs: Tensor = self.model(pixel_values=(values - self.mean) / self.std).logits
        return outputs[:, self.order]


def load_hugging_face(
    folder: str | Path,
    columns: Sequence[Column],
    *,
    task: Task,
    labels: Mapping[str, str] | None = None,
    max_length: int = 128,
    sha256: Mapping[str, str] | None = None,
) -> ModuleModel:
    """A classifier that `save_pretrained` wrote, from a folder of config.json, safetensors and tokenizer or scaling.

    The labels of the config are matched to the task's classes by name (then without regard to case; transformers'
    own `LABEL_0`, ... by position), or through `labels` (config label to class). Offers query, meter and gradient;
    no gradient where a text model cannot start from word vectors. Can be saved and loaded with a system. `sha256`
    (file name to digest) is verified before anything is parsed, and the bytes that are parsed are those verified.
    Nothing is fetched: transformers is imported offline and handed bytes, never a name. Limits: only the first
    `max_length` tokens of a text are read. Raises UnsafeFileError for pickled weights and for folders that bring code
    (`auto_map`); ModelError for a missing tokenizer, weights that do not fit or are incomplete, a model that is no
    classifier of these inputs, or labels that are not the data's classes; MissingExtraError without transformers.
    """
    kind = modality(columns)
    if kind not in AUTO:
        raise ModelError(Problem("a Hugging Face folder cannot read a table", "one image or one text column"))
    found = open_folder(folder, needs=NEEDS[kind], sha256=sha256 or {})
    config = found.json("config.json")
    _check_class(config, kind, found)
    order = _order(config, task, labels or {})
    params: dict[str, Any] = {"config": config, "order": order}
    module: HuggingFaceTexts | HuggingFaceImages
    if kind == "text":
        params |= {"max_length": _limit(config, max_length), "embeds": True}
        module = HuggingFaceTexts(**params)
        module.vocabulary = as_buffer(found.files["tokenizer.json"])
        _fill(module.model, found)
        params["embeds"] = module.embeds = _same_from_embeddings(module)
    else:
        params["scaling"] = _scaling(found, config, columns[0])
        module = HuggingFaceImages(**params)
        _fill(module.model, found)
    outputs_are: OutputsAre = "logits" if task.classes else "values"
    return ModuleModel(
        module.eval(),
        outputs_are=outputs_are,
        architecture=Architecture("hugging_face", {"kind": kind, **params}),
        differentiable=kind == "image" or bool(params["embeds"]),
        batch_size=BATCH_SIZE,
    )


def _limit(config: Mapping[str, Any], max_length: int) -> int:
    """Tokens a text may have: as asked for, and no more than the model has positions."""
    offset = 2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0  # theirs begin at 2
    return max(1, min(max_length, int(config.get("max_position_embeddings", max_length)) - offset))


def _transformers() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the import: it is read there
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("transformers", "hf") from error


@contextmanager
def _silent(library: Any) -> Iterator[None]:
    """No bars and no notes: what is wrong is raised here, in one sentence."""
    log = library.utils.logging
    level, shows = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(50)
    log.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):  # an empty model draws its weights before they are replaced
            yield
    finally:
        log.set_verbosity(level)
        if shows:
            log.enable_progress_bar()


def _class(kind: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model class for a config, and the config as an object. Raises ModelError for a type that is not known."""
    library = _transformers()
    name = str(config.get("model_type", ""))
    if config.get("auto_map") or name not in library.CONFIG_MAPPING:
        raise ModelError(Problem(f"model type {name!r} is not one of transformers {library.__version__}"))
    try:
        made = library.AutoConfig.for_model(
            name, **{key: value for key, value in config.items() if key != "model_type"}
        )
    except Exception as error:  # configs check themselves, each in its own way
        raise ModelError(Problem(f"config.json cannot be used: {' '.join(str(error).split())[:200]}")) from error
    classes = getattr(library, AUTO[kind])._model_mapping
    if type(made) not in classes:
        raise ModelError(Problem(f"{name} has no classifier of {kind}s in transformers {library.__version__}"))
    found = classes[type(made)]
    return (found[0] if isinstance(found, (tuple, list)) else found), made


def _empty(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """An untrained model of a config, in float32, with attention that has gradients and no randomness of its own."""
    made, settings = _class(kind, config)
    settings.dtype = torch.float32
    try:
        with _silent(_transformers()):
            module: nn.Module = made(settings)
    except Exception as error:
        raise ModelError(Problem(f"config.json cannot be built: {' '.join(str(error).split())[:200]}")) from error
    return module.float().eval()


def _check_class(config: Mapping[str, Any], kind: str, folder: Folder) -> None:
    names = [str(name) for name in config.get("architectures") or []]
    wanted = {"text": "ForSequenceClassification", "image": "ForImageClassification"}[kind]
    if not names or not names[0].endswith(wanted):
        what = f"{folder.path} holds {names[0] if names else 'a model of no named class'}"
        raise ModelError(Problem(what, f"a model ...{wanted}", "Fine-tune it with a classification head first"))


def _order(config: Mapping[str, Any], task: Task, given: Mapping[str, str]) -> list[int]:
    """For each class of the task, the model's output. Raises ModelError, listing both, unless they are one to one."""
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(int(config.get("num_labels", 2)))}
    theirs = [str(named[key]) for key in sorted(named, key=int)]
    if not task.classes:
        if len(theirs) != 1:
            raise ModelError(Problem(f"the model answers {len(theirs)} labels", "one number, for a regression"))
        return [0]
    ours = [given.get(label, label) for label in theirs]
    if ours == [f"LABEL_{i}" for i in range(len(task.classes))]:
        return list(range(len(ours)))
    for fold in (str, str.casefold):
        places = {fold(label): place for place, label in enumerate(ours)}
        if set(places) == {fold(name) for name in task.classes} and len(places) == len(ours) == len(task.classes):
            return [places[fold(name)] for name in task.classes]
    what = f"the model's labels are {', '.join(theirs)}, the data's classes {', '.join(task.classes)}"
    raise ModelError(Problem(what, "the same names, one to one", "Say which is which: labels={label: class}"))


def _scaling(folder: Folder, config: Mapping[str, Any], column: Column) -> dict[str, Any]:
    """What `forward` does to pixels, from preprocessor_config.json. Raises ModelError for channels that do not fit."""
    found = folder.json("preprocessor_config.json")
    channels = int(config.get("num_channels", 3))
    if column.shape[0] not in (1, channels):
        raise ModelError(Problem(f"images have {column.shape[0]} channels", f"1 or {channels}, which the model reads"))
    if found.get("do_center_crop"):
        raise ModelError(Problem("the model crops pictures to their centre", "models that resize only"))
    size = found.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    resize = [int(size["height"]), int(size["width"])] if {"height", "width"} <= set(size) else []
    if found.get("do_resize", True) and not resize:
        resize = [int(config["image_size"])] * 2 if isinstance(config.get("image_size"), int) else []
    scaled, normal = found.get("do_rescale", True), found.get("do_normalize", True)
    mean = _per_channel(found.get("image_mean", 0.5) if normal else 0.0, channels)
    std = _per_channel(found.get("image_std", 0.5) if normal else 1.0, channels)
    return {
        "size": resize if found.get("do_resize", True) else [],
        "mode": INTERPOLATION.get(int(found.get("resample", 2)), "bilinear"),
        "factor": float(found.get("rescale_factor", 1 / 255)) if scaled else 1.0,
        "mean": mean,
        "std": std,
        "channels": channels,
    }


def _per_channel(value: Any, channels: int) -> list[float]:
    values = [float(number) for number in value] if isinstance(value, list) else [float(value)] * channels
    if len(values) == channels:
        return values
    if len(set(values)) == 1:
        return values[:1] * channels
    raise ModelError(Problem(f"preprocessor_config.json has {len(values)} channels", f"{channels}, as config.json"))


def _fill(model: nn.Module, folder: Folder) -> None:
    """Weights from the folder's bytes, older names included. Raises ModelError unless all are there and fit."""
    library = _transformers()
    state: dict[str, Tensor] = {}
    for content in folder.weights:
        state |= safetensors.torch.load(content)
    try:
        with _silent(library):
            loader: Any = type(model)
            loaded, told = loader.from_pretrained(
                None,
                config=model.config,
                state_dict=state,
                output_loading_info=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are refused below, in one sentence
            )
    except Exception as error:
        raise ModelError(Problem(f"{folder.path}: {' '.join(str(error).split())[:200]}")) from error
    lacking = sorted([*told["missing_keys"], *(str(key[0]) for key in told["mismatched_keys"])])
    if lacking:
        what = f"{folder.path} has no fitting weights for {', '.join(lacking[:5])}"
        raise ModelError(Problem(what, "every weight of the model", "They would be random: save the tuned model"))
    model.load_state_dict(loaded.state_dict())


def _same_from_embeddings(module: HuggingFaceTexts) -> bool:
    """Whether word vectors give the same answers as ids do, on two rows of different length."""
    size = int(module.model.get_input_embeddings().num_embeddings)
    num = max(1, min(6, module.max_length))
    tokens = 1 + torch.arange(2 * num).reshape(2, num) * 7 % size
    tokens[1, (num + 1) // 2 :] = 0
    try:
        with evaluation(module), torch.no_grad():
            module.embeds = True
            first = module(tokens)
            module.embeds = False
            second = module(tokens)
    except (TypeError, ValueError, RuntimeError):  # the model cannot start from word vectors
        return False
    return bool(torch.allclose(first, second, atol=1e-5))


def _build(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    params = dict(params)
    kind = params.pop("kind")
    module = HuggingFaceTexts(**params) if kind == "text" else HuggingFaceImages(**params)
    if len(module.order) != num_outputs:
        raise ModelError(Problem(f"the model answers {len(module.order)} classes", f"{num_outputs}"))
    return module


def _resolved(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json leaves out what is transformers' own default of today; here it is written out."""
    if not isinstance(params.get("config"), Mapping) or params.get("kind") not in AUTO:
        return params  # the builder says what is missing
    whole = _class(params["kind"], params["config"])[1].to_dict()
    about = ("transformers_version", "_name_or_path")
    return {**params, "config": {name: value for name, value in whole.items() if name not in about}}


register_architecture("hugging_face", _build, resolver=_resolved)
