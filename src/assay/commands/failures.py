"""What the command line says when it fails: a sentence for each problem, and with --json one document of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import typer

from assay.errors import AssayError, Problem

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
_INTERRUPTED = Problem("interrupted; nothing is half-written, and what was measured is remembered")


def explain(error: Exception, *, is_json: bool) -> int:
    """The exit code. A traceback is only written for a defect of our own, and then into a file."""
    show = getattr(error, "format_message", None)
    if show is not None:  # typer's own usage errors
        text = show()  # without any argument: the help
        problem = _usage(text, getattr(error, "ctx", None))
        _tell("usage", [problem], [text if text.startswith("Usage:") else f"assay: {problem}"], is_json=is_json)
        return int(getattr(error, "exit_code", EXIT_USAGE))
    if isinstance(error, typer.Exit):  # a verb that has told its own document
        return int(error.exit_code)
    if isinstance(error, AssayError):
        _tell(error.code, error.problems, [f"assay: {one}" for one in error.problems], is_json=is_json)
        return EXIT_USAGE
    from assay.commands.console import write_crash

    what, where = f"a defect stopped this: {type(error).__name__}: {error}", f"Details are in {write_crash(error)}"
    _tell("defect", [Problem(what, next=where)], [f"assay: {what}. {where}."], is_json=is_json)
    return EXIT_USAGE


def interrupted(*, is_json: bool) -> int:
    """Say that nothing is lost; the exit code."""
    _tell("interrupted", [_INTERRUPTED], [f"assay: {_INTERRUPTED}"], is_json=is_json)
    return EXIT_INTERRUPTED


def _tell(code: str, problems: Sequence[Problem], sentences: Sequence[str], *, is_json: bool) -> None:
    """Sentences for a person on stderr; with --json one document on stdout, in letters that every terminal has."""
    for sentence in sentences:
        sys.stderr.write(f"{sentence}\n")
    if is_json:
        listed = [{"code": code, "what": one.what, "allowed": one.allowed, "next": one.next} for one in problems]
        sys.stdout.write(json.dumps({"error": listed}, indent=2) + "\n")


def _usage(text: str, context: typer.Context | None) -> Problem:
    """What typer found wrong, the commands or options there are, and where to read on."""
    if context is None:
        return Problem(text.rstrip("."))
    command = context.command
    allowed = sorted(getattr(command, "commands", ()))
    allowed = allowed or [name for option in command.params for name in option.opts if name.startswith("--")]
    shown = ", ".join(allowed) if text.startswith("No such") else ""
    return Problem(text.rstrip("."), shown, f"Read: {context.command_path} --help")
