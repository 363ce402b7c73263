"""Models made elsewhere that need more than their files say: which label is which class, and what a text is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.errors import Problem, UsageError
from assay.tasks import task_of
from assay.values import Data, Model

Kinds = Mapping[str, type]  # name to the type of its value; a list is of words
HUGGING_FACE: Kinds = {"labels": list, "max_length": int}
LANGUAGE_MODEL: Kinds = {"prompt": str, "answers": list, "neutral": str, "max_tokens": int}
WORDS = {str: "a text", int: "a whole number from 1", list: 'a list of texts: ["one", "two"]'}
ASK = """--set 'prompt="… {text} …",answers=[" one", " other"]'"""


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder is what `save_pretrained` writes, and no system of ours."""
    return (folder / "config.json").is_file() and not (folder / "system.json").is_file()


def open_hugging_face(folder: Path, data: Data, options: Mapping[str, Any]) -> Model:
    """A classifier of texts or pictures; `labels` says which label of theirs is which class: "theirs=ours".

    Raises UsageError for unknown or odd options, ModelError and UnsafeFileError for what `load_hugging_face` refuses.
    """
    from assay.models.adapters.hugging_face import load_hugging_face

    _check(options, HUGGING_FACE, folder)
    pairs = [str(pair).partition("=") for pair in options.get("labels", [])]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError(Problem(f"labels is {list(options['labels'])}", '["theirs=ours", …]'))
    labels = {theirs.strip(): ours.strip() for theirs, _, ours in pairs}
    more = {"max_length": options["max_length"]} if "max_length" in options else {}
    return load_hugging_face(folder, data.columns, task=task_of(data), labels=labels, **more)


def open_gguf(path: Path, data: Data, options: Mapping[str, Any]) -> Model:
    """A language model that answers a prompt by one of as many answers as there are classes, in the data's order.

    Raises UsageError without a prompt and one answer a class; ModelError for what `load_gguf` refuses.
    """
    from assay.models.adapters.gguf import load_gguf

    _check(options, LANGUAGE_MODEL, path)
    wrong = []
    if data.modality != "text" or not data.classes:
        wrong.append(Problem(f"{data.name} cannot be put to a language model", "texts with classes"))
    elif "prompt" not in options or "answers" not in options:
        wrong.append(Problem(f"{path} is a language model, and what to ask it is not said", ASK))
    elif len(options["answers"]) != len(data.classes):
        what = f"there are {len(options['answers'])} answers for {len(data.classes)} classes"
        wrong.append(Problem(what, f"one each, in the order {', '.join(data.classes)}"))
    if wrong:
        raise UsageError(wrong)
    return load_gguf(path, **options)


def no_options(options: Mapping[str, Any], target: str) -> None:
    """Raises UsageError when options are given to what takes none."""
    if options:
        allowed = "nothing; a Hugging Face folder and a .gguf file take some"
        raise UsageError(Problem(f"{target} takes no --set {', '.join(options)}", allowed))


def _check(options: Mapping[str, Any], kinds: Kinds, path: Path) -> None:
    wrong = [Problem(f"{path} has no option {name!r}", ", ".join(kinds)) for name in options if name not in kinds]
    for name, value in options.items():
        kind = kinds.get(name, object)
        fine = type(value) is kind or kind is object
        fine = fine and (kind is not list or all(type(one) is str for one in value)) and (kind is not int or value >= 1)
        if not fine:
            wrong.append(Problem(f"{name} is {value!r}", WORDS[kind]))
    if wrong:
        raise UsageError(wrong)
