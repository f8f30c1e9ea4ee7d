"""YAML read as kubectl reads it: what JSON can hold, each key once, and errors that name line and column."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from adts_api.errors import ConfigError

MERGE_TAG = "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, strict about keys and with kubectl's idea of numbers and dates."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE_TAG:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                problem = f"key `{key.value}` stands in line {lines[key.value]} and again here; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = line
        return super().construct_mapping(node, deep)


# A date stays a string and so does 12:30, a number to the base of 60 for PyYAML; 3e-4 is a number, although PyYAML
# misses a dot in it.
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "float", "int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"([-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def read_documents(text: str, name: str) -> list[Any]:
    """The documents of a YAML text that are not empty; `name` stands in errors. Raises ConfigError."""
    try:
        return [document for document in yaml.load_all(text, StrictLoader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{where}: {error.problem}{hint(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {' '.join(str(error).split())}; write YAML text") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: is nested too deeply or holds a malformed number; write it simpler") from error


def hint(error: yaml.MarkedYAMLError) -> str:
    """What usually helps against a syntax error."""
    problem = error.problem or ""
    if "'\\t'" in problem:
        return "; indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "; check the indentation, or put a value with a colon in quotes"
    return "" if "keep one" in problem else "; check indentation, quotes and brackets"
