"""A system made by a user's own function, named on the command line as `package.module:function`."""

from __future__ import annotations

import importlib
import os
import re
import sys

from assay.errors import ModelError, Problem, UsageError
from assay.values import System

__all__ = ["load_callable"]

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_callable(name: str) -> System:
    """Import `package.module`, with the current folder on the path, call `function()` and return its System.

    This runs the user's code, as importing it would. Raises UsageError for a name that is not one, and ModelError for
    a module that cannot be imported, a function that is missing or raises, or an answer that is not a System.
    """
    if not NAME.fullmatch(name):
        raise UsageError(Problem(f"{name!r} names no function", "package.module:function, as in mymodels:make_system"))
    module_name, function_name = name.split(":")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        importlib.invalidate_caches()
        function = getattr(_import(module_name), function_name, None)
        if not callable(function):
            what = f"{module_name} has no function {function_name}"
            raise ModelError(Problem(what, "a function without parameters that returns a System"))
        try:
            system = function()
        except Exception as error:
            raise ModelError(Problem(f"{name} stopped with {_said(error)}")) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    if not isinstance(system, System):
        raise ModelError(Problem(f"{name} returned a {type(system).__name__}", "an assay.values.System"))
    return system


def _import(module_name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            what = f"there is no module {module_name} in this folder or among the installed packages"
            raise ModelError(Problem(what, next="Run it from the folder that holds the module")) from error
        raise ModelError(Problem(f"{module_name} needs {error.name}, which is not installed")) from error
    except Exception as error:
        raise ModelError(Problem(f"{module_name} cannot be imported: {_said(error)}")) from error


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
