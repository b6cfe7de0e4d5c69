"""A file -> plain dictionaries, lists, texts, numbers and booleans, with text keys only."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from routing.config.report import ConfigInvalid

MOST_BYTES = 16 * 1024 * 1024  # of a file
MOST_VALUES = 1_000_000  # once its aliases are written out
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """YAML without dates, so that `api_version: 2024-01-01` stays the text that it looks like."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def load(path: str | Path) -> dict[str, Any]:
    """The file's content. Raises ConfigInvalid, without a word of what stands in the file."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig") if len(content) <= MOST_BYTES else ""
    except OSError as error:
        raise ConfigInvalid([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigInvalid([f"{path}: is not UTF-8 text"]) from None
    if len(content) > MOST_BYTES:
        raise ConfigInvalid([f"{path}: is larger than {MOST_BYTES:,} bytes"])
    return parse(text, str(path))


def parse(text: str, name: str) -> dict[str, Any]:
    try:
        document = _construct(text, name)
        # Refuses what JSON has no word for, and anchors that contain themselves.
        json.dumps(document, allow_nan=False)
    except yaml.YAMLError as error:
        raise ConfigInvalid([f"{name}{_place(error)}: is not valid YAML{_reason(error)}"]) from None
    except (TypeError, ValueError, RecursionError):
        raise ConfigInvalid(
            [f"{name}: allowed are mappings, lists, texts, numbers and true or false only"]
        ) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigInvalid([f"{name}: allowed is a mapping such as `model_list: [...]`"])
    return _with_text_keys(document, name)


def _construct(text: str, name: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MOST_VALUES:
            raise ConfigInvalid([f"{name}: holds more than {MOST_VALUES:,} values, its aliases written out"])
        if twice := list(_duplicates(node, set())):
            raise ConfigInvalid(f"{name}, line {line}: the key {key} is there twice" for key, line in twice)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values it stands for: an alias counts as all that it repeats. One inside itself ends too."""
    if (found := known.get(id(node))) is not None:
        return found
    known[id(node)] = 0  # for an alias inside itself, which is refused later
    children: list[Any] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_size(child, known) for child in children)
    known[id(node)] = size
    return size


def _duplicates(node: yaml.Node, visited: set[int]) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has twice: YAML would silently keep the last."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicates(child, visited)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    yield key.value, key.start_mark.line + 1
                seen.add(key.value)
            yield from _duplicates(value, visited)


def _with_text_keys(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [_with_text_keys(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    for key in value:
        if not isinstance(key, str) and (isinstance(key, bool) or not isinstance(key, int)):
            raise ConfigInvalid([f"{name}: the key {key!r} is not text: put it in quotes"])
    return {str(key): _with_text_keys(item, name) for key, item in value.items()}


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _reason(error: yaml.YAMLError) -> str:
    # Quoted parts may be the file's own text, and that may be a credential.
    problem = re.sub(r"'(?!<)[^']*'", "…", getattr(error, "problem", None) or "")
    return f" ({problem})" if problem else ""
