"""YAML in bounds: whatever stands in a file, it becomes plain values or one clear line.

Plain values are texts, whole and other numbers, truths, null, lists and mappings. A date stays the
text it is. Files that would expand without end, nest without end or hold what no name can hold
are refused while they are read, before anything is built of them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import InputError, Problem, one_line

LARGEST = 4_000_000  # bytes of a file
DEEPEST = 40  # lists and mappings within one another
MOST = 300_000  # values, those that aliases repeat counted each time
#: what no name of a file holds, and halves of characters that cannot be written
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
_TAGS = ("binary", "omap", "pairs", "set", "timestamp")


class _Loader(yaml.SafeLoader):
    """Builds plain values only, and says where what cannot be built stands."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # int("") and its like: an explicit tag on the wrong text
            raise _wrong(one_line(error), node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong("expected a word as a key", key.start_mark)
            if key.value in seen:
                raise _wrong(f"the key {key.value!r} stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] not in _TAGS
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rules if not tag.endswith(":timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_file(path: Path) -> Any:
    """Value of a YAML or JSON file.

    Raises
    ------
    InputError
        One line with file, line and column: it cannot be read, is no YAML, or is out of bounds.
    """
    try:
        with path.open("rb") as file:
            contents = file.read(LARGEST + 1)
        text = contents.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "no such file")) from None
    except (OSError, ValueError) as error:
        raise InputError(Problem(str(path), f"cannot be read: {one_line(error)}")) from None
    if len(contents) > LARGEST:
        raise InputError(Problem(str(path), f"expected a file of at most {LARGEST:,} bytes"))
    return read_text(text, str(path))


def read_text(text: str, where: str) -> Any:
    """Value of a YAML text; InputError blames ``where``, with line and column."""
    try:
        _bounded(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        reason = getattr(error, "problem", None) or one_line(error)
        raise InputError(Problem(at, f"not valid YAML: {reason}")) from None


def _bounded(text: str) -> None:
    """Refuse a text by its events alone, which cost no more than its length."""
    open_sizes: list[int] = [0]
    open_anchors: list[str | None] = [None]
    sizes: dict[str | None, int] = {}
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            if len(open_sizes) > DEEPEST:
                raise _wrong(f"more than {DEEPEST} lists within one another", event.start_mark)
            open_sizes.append(1)
            open_anchors.append(event.anchor)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_sizes.pop(), open_anchors.pop()
        elif isinstance(event, yaml.ScalarEvent):
            if _CONTROL.search(event.value):
                raise _wrong("a control character in a text", event.start_mark)
            size, anchor = 1, event.anchor
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                raise _wrong(f"the anchor {event.anchor!r} within itself", event.start_mark)
            size, anchor = sizes.get(event.anchor, 1), None
        else:
            continue
        open_sizes[-1] += size
        if anchor is not None:
            sizes[anchor] = size
        if open_sizes[-1] > MOST:
            raise _wrong(f"more than {MOST:,} values", event.start_mark)


def _wrong(message: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, message, mark)
