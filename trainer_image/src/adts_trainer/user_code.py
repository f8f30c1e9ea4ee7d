"""Import paths of the user's own code, as manifests write them."""

from __future__ import annotations

import importlib
from typing import Any

from adts_trainer.errors import UserCodeError


def find_callable(path: str, field: str) -> Any:
    """The function or class at `package.module:callable`. Raises UserCodeError, which names the manifest's field."""
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise UserCodeError(f"{field}: {path!r} is no import path; write package.module:callable")
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise UserCodeError(
            f"{field}: importing {module_name} raised {type(error).__name__}: {error}; "
            "the package must be installed in the image or lie on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserCodeError(f"{field}: {module_name} has no attribute {attribute}; check the name after the colon")
        found = getattr(found, part)
    if not callable(found):
        raise UserCodeError(f"{field}: {path} is a {type(found).__name__}, not callable; name a function or a class")
    return found
