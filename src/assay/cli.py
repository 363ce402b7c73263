"""The command line: twelve verbs. Nothing heavy is imported until a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.commands.choose_verb import choose
from assay.commands.data_verb import data_app
from assay.commands.failures import EXIT_INTERRUPTED, explain, interrupted
from assay.commands.slim_verb import slim

app = typer.Typer(
    help="Build AI models and answer for them: train, audit, treat, compare, report, verify, serve.",
    epilog="Exit codes: 0 pass, 1 fail, 2 usage or error, 3 inconclusive, 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.command()(choose)
app.command()(slim)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else, also of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DataName = Annotated[str, typer.Option("--data", help="A CSV or Parquet file, or a name of `assay data list`.")]
Label = Annotated[
    str, typer.Option("--label", help="Label column of a data file, or several of 0 and 1, comma-separated.")
]
Text = Annotated[str, typer.Option("--text", help="Column of a data file that holds texts: a model of texts.")]
GroupNames = Annotated[str, typer.Option("--groups", help="Sensitive columns of a data file, comma-separated.")]
Target = Annotated[
    str,
    typer.Argument(help="System or Hugging Face folder, package.module:function, model.onnx, model.gguf, or http://…"),
]
_ASKED = 'Of a .gguf file: prompt="…{text}…",answers=["…"]; of a Hugging Face folder: labels=["theirs=ours"].'
Asked = Annotated[str, typer.Option("--set", help=_ASKED)]
PolicyName = Annotated[str, typer.Option("--policy", help="default, strict, or a TOML file.")]
Folder = Annotated[Path | None, typer.Option("--cache", help="Where measurements are remembered. [.assay/cache]")]
Probes = Annotated[
    str, typer.Option("--probes", help="Comma-separated, or all; when not given, those that cost little.")
]


@app.command()
def train(
    data: Annotated[
        str, typer.Argument(help="CSV, Parquet, a folder or .safetensors of pictures, or a name of `data list`.")
    ] = "adult",
    label: Label = "",
    groups: GroupNames = "",
    text: Text = "",
    model: Annotated[str, typer.Option("--model", help="Architecture; by the kind of data when not given.")] = "",
    options: Annotated[str, typer.Option("--set", help="name=value, comma-separated: epochs=3,num_hidden=64.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the system.")] = Path("system"),
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", help="Folder to save the run in; a killed run goes on from there.")
    ] = None,
    distribute: Annotated[
        str, typer.Option("--distribute", help="replicas or shards: train with all processes of a torchrun.")
    ] = "",
    seed: int = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier or regressor on a table, texts or pictures, and save the system."""
    from assay.commands.train import run

    spec, how = (data, label, groups, text), (seed, distribute)
    run(spec, (model, options), (out, checkpoints), how, _console(json, quiet))


@app.command()
def audit(
    system: Target,
    data: DataName = "",
    label: Label = "",
    groups: GroupNames = "",
    text: Text = "",
    options: Asked = "",
    policy: PolicyName = "default",
    out: Annotated[Path, typer.Option("--out", help="Folder for the dossier.")] = Path("dossier"),
    probes: Probes = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Print passes, rows and expected seconds; run no probe.")
    ] = False,
    cache: Folder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a system on every dimension, judge it by a policy, and file a signed dossier."""
    from assay.commands.audit import run

    console = _console(json, quiet)
    run(system, (data, label, groups, text, options), (policy, probes, plan, out, cache), console)


@app.command()
def treat(
    system: Annotated[str, typer.Argument(help="System or Hugging Face folder, or package.module:function.")],
    treatment: Annotated[str, typer.Option("--with", help="A treatment, or several in order: a+b.")] = "",
    suggest: Annotated[bool, typer.Option("--suggest", help="Try what could move each finding that fails.")] = False,
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="With --suggest: so many, cheap ones first.")
    ] = None,
    policy: PolicyName = "default",
    options: Annotated[str, typer.Option("--set", help="name=value, comma-separated: sparsity=0.5.")] = "",
    data: DataName = "",
    label: Label = "",
    groups: GroupNames = "",
    text: Text = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the treated system.")] = Path("treated"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a treatment, or try those that could help. The result has no evidence until it is audited."""
    from assay.commands.treat import run, run_suggest

    if suggest:
        return run_suggest((system, (data, label, groups, text)), (treatment, most), policy, _console(json, quiet))
    return run((system, (data, label, groups, text)), treatment, options, out, _console(json, quiet))


@app.command()
def compare(
    system: Target,
    treatments: Annotated[str, typer.Option("--treatments", help="Comma-separated; a+b applies a, then b.")] = "",
    data: DataName = "",
    label: Label = "",
    groups: GroupNames = "",
    text: Text = "",
    options: Asked = "",
    policy: PolicyName = "default",
    out: Annotated[Path, typer.Option("--out", help="Folder for the dossier with the matrix.")] = Path("comparison"),
    probes: Probes = "",
    cache: Folder = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply treatments, audit each, and show what each one costs on every other dimension."""
    from assay.commands.compare import run

    spec = (data, label, groups, text, options)
    run((system, spec), treatments, (policy, probes, out, cache), _console(json, quiet))


@app.command()
def report(
    dossier: Annotated[Path, typer.Argument(help="Dossier folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file. [DOSSIER.html beside the folder]")] = None,
    lang: Annotated[str, typer.Option("--lang", help="en or zh.")] = "en",
    json: Json = False,
) -> None:
    """Write one self-contained HTML page from a dossier."""
    from assay.commands.report import run

    run(dossier, out, lang, _console(json, True))


@app.command()
def verify(
    dossier: Annotated[Path, typer.Argument(help="Dossier folder.")],
    key: Annotated[Path | None, typer.Option("--key", help="The signer's public key (PEM) you trust.")] = None,
    json: Json = False,
) -> None:
    """Check the signature, every digest and, with the sealed part, every passive number. Offline."""
    from assay.commands.verify import run

    run(dossier, key, _console(json, True))


@app.command()
def serve(
    dossier: Annotated[Path, typer.Argument(help="Dossier folder.")],
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_failed: Annotated[bool, typer.Option(help="Serve a system that did not pass; every answer says so.")] = False,
    allow_unsigned: Annotated[bool, typer.Option(help="Serve without a signature; every answer says so.")] = False,
    new_counts: Annotated[bool, typer.Option("--new-counts", help="Begin to count a limited system, once.")] = False,
    window: Annotated[int, typer.Option(min=200, help="Rows after which drift is looked for, again and again.")] = 1000,
    log: Annotated[Path | None, typer.Option(help="A file that gets one line of JSON a request.")] = None,
) -> None:
    """Serve a system that passed, with health, predictions and explanations."""
    from assay.commands.serve import run

    run(dossier, (host, port), (allow_failed, allow_unsigned), _console(False, False), new_counts, (window, log))


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="probes, treatments, policies, data, or all.")] = "all", json: Json = False
) -> None:
    """List what is registered: probes, treatments, policies, built-in data."""
    from assay.commands.listing import run

    run(what, _console(json, True))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The whole story on the Adult census data: train, audit, treat, compare, judge, file, report."""
    from assay.commands.demo import run

    run(out, _console(json, quiet))


def _console(json: bool, quiet: bool) -> Any:
    from assay.commands.console import Console

    return Console(json=json, quiet=quiet or json)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. Every error a user can cause is one sentence each on stderr, and exit code 2.

    With --json the same is also one document on stdout: {"error": [{"code", "what", "allowed", "next"}, ...]}.
    """
    command: Callable[..., Any] = typer.main.get_command(app)
    is_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = command(args=arguments, prog_name="assay", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except Exception as error:
        code = explain(error, is_json=is_json)
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C inside a command into this code
        interrupted(is_json=is_json)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
