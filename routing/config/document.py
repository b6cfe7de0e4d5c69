"""A file -> plain dictionaries, lists, texts, numbers and booleans, with text keys only."""

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from routing.config.report import ConfigInvalid, Notes
from routing.config.values import WrittenFloat, WrittenInt

MOST_BYTES = 16 * 1024 * 1024  # of a file
MOST_VALUES = 1_000_000  # once its aliases are written out
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML without dates, so that `api_version: 2024-01-01` stays the text that it looks like."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _float(loader: _Loader, node: yaml.ScalarNode) -> WrittenFloat:
    return WrittenFloat(loader.construct_yaml_float(node), node.value)


def _int(loader: _Loader, node: yaml.ScalarNode) -> WrittenInt:
    number = loader.construct_yaml_int(node)
    return WrittenInt(number, node.value if node.value.isdigit() else str(number))


_Loader.add_constructor(f"{_TAG}float", _float)
_Loader.add_constructor(f"{_TAG}int", _int)


def read_file(path: str | Path) -> bytes:
    """Raises ConfigInvalid."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigInvalid([f"{path}: can't be read: {error.strerror}"]) from None


def decode(content: bytes, name: str, notes: Notes, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """What the text says. Raises ConfigInvalid, without a word of what stands in it."""
    if len(content) > most_bytes:
        raise ConfigInvalid([f"{name}: is larger than {most_bytes:,} bytes"])
    try:
        return parse(content.decode("utf-8-sig"), name, notes)
    except UnicodeDecodeError:
        raise ConfigInvalid([f"{name}: is not UTF-8 text"]) from None


def parse(text: str, name: str, notes: Notes) -> dict[str, Any]:
    """One mapping: what the file says, out of whatever is wrapped around it."""
    try:
        documents = [_plain(found) for found in _construct(text, name, notes)]
        json.dumps(documents)  # refuses what JSON has no word for, and anchors that contain themselves
    except yaml.YAMLError as error:
        raise ConfigInvalid([f"{name}{_place(error)}: is not valid YAML{_reason(error)}"]) from None
    except (TypeError, ValueError, RecursionError):
        raise ConfigInvalid(
            [f"{name}: allowed are mappings, lists, texts, numbers and true or false only"]
        ) from None
    return _unwrapped(documents, name, notes)


def _construct(text: str, name: str, notes: Notes) -> list[Any]:
    loader = _Loader(text)
    try:
        nodes: list[yaml.Node] = []
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                nodes.append(node)
        if sum(_size(node, {}) for node in nodes) > MOST_VALUES:
            raise ConfigInvalid([f"{name}: holds more than {MOST_VALUES:,} values, its aliases written out"])
        for node in nodes:
            _settle_keys(node, set(), notes)
        return [loader.construct_document(node) for node in nodes]
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


def _settle_keys(node: yaml.Node, visited: set[int], notes: Notes) -> None:
    """Keys are texts as they are written; one that is there twice counts as it does for LiteLLM."""
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _settle_keys(child, visited, notes)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                key.tag = f"{_TAG}str"
                _note_twice(key, seen, notes)
            _settle_keys(value, visited, notes)


def _note_twice(key: yaml.ScalarNode, seen: set[str], notes: Notes) -> None:
    if key.value in seen:
        place = f"line {key.start_mark.line + 1}"
        notes.say(
            place, f"the key {key.value[:60]} is there twice; the last one counts", "take one of them out"
        )
    seen.add(key.value)


def _plain(value: Any) -> Any:
    """Without numbers that no setting can have: .nan and .inf."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # each setting says itself what it makes of that text
    return value


# What stands around the settings: a list of entries alone, a ConfigMap, a chart's values


_SECTIONS = (
    "model_list",
    "litellm_settings",
    "router_settings",
    "general_settings",
    "litellm_params",
    "switchstand",
)
_CHART_KEY = "proxy_config"


def _unwrapped(documents: list[Any], name: str, notes: Notes) -> dict[str, Any]:
    found = [inner for document in documents for inner in _candidates(document, notes)]
    ours = [document for document in found if any(word in document for word in _SECTIONS)] or found
    if len(ours) > 1:
        notes.say(
            name, f"holds {len(ours)} configurations; the first one counts", "put each into a file of its own"
        )
    return ours[0] if ours else {}


def _candidates(document: Any, notes: Notes) -> list[dict[str, Any]]:
    if isinstance(document, list) and all(
        isinstance(item, dict) and "model_name" in item for item in document
    ):
        return [{"model_list": document}] if document else []
    if not isinstance(document, dict):
        return []
    if document.get("kind") == "ConfigMap" and isinstance(document.get("data"), dict):
        return _in_config_map(document["data"], notes)
    if document.get("kind") == "List" and isinstance(document.get("items"), list):
        return [inner for item in document["items"] for inner in _candidates(item, notes)]
    if isinstance(document.get(_CHART_KEY), dict) and "model_list" not in document:
        return [document[_CHART_KEY]]
    return [document]


def _in_config_map(data: dict[str, Any], notes: Notes) -> list[dict[str, Any]]:
    """A text that is no configuration is another file of the same map: a script, a prompt."""
    found: list[dict[str, Any]] = []
    for key, text in data.items():
        if isinstance(text, str) and key.endswith((".yaml", ".yml")):
            document = parse(text, f"data.{key}", notes)
            found += [document] if any(word in document for word in _SECTIONS) else []
    return found


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _reason(error: yaml.YAMLError) -> str:
    # Quoted parts may be the file's own text, and that may be a credential.
    problem = re.sub(r"'(?!<)[^']*'", "…", getattr(error, "problem", None) or "")
    return f" ({problem})" if problem else ""
