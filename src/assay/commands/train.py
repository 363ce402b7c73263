"""`assay train`: from a table, texts or pictures to a saved system."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.commands.console import Console
from assay.commands.files import notes_of, require_folder
from assay.commands.options import parse_options
from assay.commands.sources import DataSpec, open_data, save
from assay.data._problems import names_text
from assay.errors import AssayError, ModelError, Problem, UsageError
from assay.report.numbers import number
from assay.values import Data

if TYPE_CHECKING:
    from torch import nn

    from assay.train.recipe import TrainRecipe
    from assay.train.workers import Workers

MOST_CLASSES = 6  # that are told one by one
Model = tuple[str, str]  # architecture (empty: the default of the modality), and name=value pairs


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}
Folders = tuple[Path, Path | None]  # of the system, and of the checkpoints


def run(spec: DataSpec, model: Model, folders: Folders, how: tuple[int, str], console: Console) -> None:
    """Say what will be trained, train it, and write the system's folder; `how` is the seed, and how to share the work.

    Started by torchrun with "replicas" or "shards", all processes train together and the first one reports.
    """
    seed, mode = how
    if not mode:
        train(spec, model, folders, (seed, None), console)
        return
    from assay.train.distributed import team

    with team(mode) as workers:  # type: ignore[arg-type]
        train(spec, model, folders, (seed, workers), console if workers.leads else Console(json=False, quiet=True))


def train(spec: DataSpec, model: Model, folders: Folders, how: tuple[int, Workers | None], console: Console) -> None:
    """Train in this process, alone or as one of a team."""
    from assay.models.cost import card
    from assay.observe import one_thread
    from assay.train.checkpoints import Checkpoints
    from assay.train.system import train_system

    out, saved = folders[0], None if folders[1] is None else Checkpoints(folders[1])
    seed, workers = how
    leads = workers is None or workers.leads
    require_folder(out, marks=["system.json"])
    if folders[1] is not None:
        require_folder(folders[1], marks=[], option="--checkpoints")
    options = parse_options(model[1])
    one_thread()
    data, source = open_data(spec)
    recipe, module = chosen_recipe(data, model[0], options, seed)
    size = card(recipe.wrap(module, data.columns), data)
    if leads:
        _say(data, size, recipe, console)
    recipe = replace(recipe, workers=workers)
    with console.progress() as progress:
        system = train_system(data, recipe=recipe, seed=seed, progress=progress, checkpoints=saved)
    if not leads:
        return
    save(system, source, out)
    facts = {name: value for name, value in system.facts.items() if isinstance(value, (int, float, str))}
    console.say(f"trained {system.name} on {data.name}: {len(data.splits['train']):,} rows, {facts.get('steps')} steps")
    if facts.get("resumed"):
        console.say("        taken up again from its checkpoints")
    console.say(f"system: {out} (digest {system.digest[:16]})")
    console.say(f"next:   assay audit {out}")
    document = {"system": str(out), "digest": system.digest, "facts": facts, "size": size}
    console.finish(document | {"notes": data.source.get("problems", [])})


def chosen_recipe(data: Data, model: str, options: dict[str, Any], seed: int) -> tuple[TrainRecipe, nn.Module]:
    """The recipe of an architecture by name, and its module before training, for what it is and costs.

    Options are settings of training where they have such a name, else parameters of the architecture. Raises UsageError
    or ModelError, with what is allowed, for an unknown architecture, parameter or value.
    """
    from assay.train.settings import TrainSettings
    from assay.train.system import recipe_for

    known = {one.name: one.default for one in fields(TrainSettings)}
    wrong = [
        Problem(f"{name} is {value!r}", _KINDS[type(known[name])])
        for name, value in options.items()
        if _is_odd(value, known.get(name))
    ]
    if wrong:
        raise UsageError(wrong)
    settings = {name: value for name, value in options.items() if name in known}
    params = {name: value for name, value in options.items() if name not in known}
    if model in ("", "mlp") and data.modality == "table" and isinstance(params.get("hidden"), int):
        params["hidden"] = [params["hidden"]]  # one layer
    try:
        recipe = recipe_for(data, model=model, params=params, settings=settings)
        return recipe, recipe.make_module(data.splits["train"], data, seed)
    except AssayError as error:
        odd = "there is no parameter"
        hint = f"Settings of training may stand there too: {', '.join(sorted(known))}"
        told = [replace(one, next=one.next or hint) if one.what.startswith(odd) else one for one in error.problems]
        raise type(error)(told) from error
    except (TypeError, ValueError, RuntimeError) as error:  # values of a kind that no check expects
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        raise ModelError(Problem(f"{model or 'the model'} cannot be made with {shown}: {error}")) from error


def _is_odd(value: Any, default: object) -> bool:
    """Whether a setting is of another kind than its default: a word for a number, say."""
    if type(default) not in _KINDS or type(value) is type(default):
        return False
    return not (isinstance(default, float) and type(value) is int)


def _say(data: Data, size: dict[str, Any], recipe: TrainRecipe, console: Console) -> None:
    """What will be trained, and what it costs, before it does."""
    for note in notes_of(data):
        console.say(f"note:   {note}")
    console.say(
        f"data:   {', '.join(f'{len(split):,} {name}' for name, split in data.splits.items())} rows of {data.name}"
    )
    console.say(f"        {label_in_words(data)}")
    given = ", ".join(f"{name}={value}" for name, value in recipe.architecture.params.items())
    console.say(f"model:  {recipe.architecture.name} ({given or 'its defaults'}) for {data.modality}s of {data.name}")
    flops = size["flops_per_example"]
    told = "unknown" if flops is None else f"{flops:,.0f}"
    console.say(f"        {size['num_parameters']:,} parameters, {number(size['num_bytes'], 'bytes')},")
    console.say(f"        {told} floating-point operations an example (mean of the first training rows)")
    settings = recipe.settings
    console.say(
        f"        {settings.epochs} epochs of batches of {settings.batch_size}, rate {settings.learning_rate:g}"
    )


def label_in_words(data: Data) -> str:
    """What is learnt, how often each class is there in training, and which one a selection rate counts.

    A positive class that nobody declared is the last of two: whoever lends money must see which one that is.
    """
    labels = data.splits["train"].labels
    if data.label_names:
        return f"labels: {names_text(list(data.label_names), MOST_CLASSES)}, of which several may apply"
    if not data.classes:
        return f"label {data.label}: a number, {labels.min():g} to {labels.max():g} in training"
    shares = [float((labels == place).mean()) for place in range(len(data.classes))]
    if len(shares) > MOST_CLASSES:
        least, most = 100 * min(shares), 100 * max(shares)
        return f"label {data.label}: {len(shares)} classes of {least:.1f} to {most:.1f} % of training rows"
    told = ", ".join(
        f"{names_text([name])} {100 * share:.1f} %" for name, share in zip(data.classes, shares, strict=True)
    )
    positive = "" if data.positive is None else f"; positive is {names_text([data.positive])}"
    return f"label {data.label}: {told} of training rows{positive}"
