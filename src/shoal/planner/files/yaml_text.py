"""Parsing of YAML that is written by hand: plans, descriptions of machines, and other small files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from shoal.config import near_file
from shoal.errors import ConfigError, while_reading


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, a few lines of which can expand to more data than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases."""
        loader: Any = self  # PyYAML has no type annotations
        if loader.check_event(yaml.AliasEvent):
            event = loader.peek_event()
            raise ComposerError(None, None, f"*{event.anchor} is an alias: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse duplicate keys, of which PyYAML silently keeps the last."""
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), "a key")
            raise ConstructorError(None, None, f"{twice} stands there twice", node.start_mark)
        return mapping


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML into dictionaries, lists and scalars.

    Args:
        text: the text of the file.
        name: the name of the file, for messages.

    Raises:
        ConfigError: the text is no YAML, is nested too deeply, or has aliases or duplicate keys.
    """
    with while_reading(name, ConfigError):
        try:
            return yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
        except RecursionError as error:
            raise ConfigError(f"{name} is nested too deeply") from error


def read_yaml(file: Path, *, max_bytes: int, holder: str) -> Any:
    """Read and parse a small YAML file.

    Args:
        file: the file's path.
        max_bytes: the most bytes that it may have, >= 1.
        holder: what the file is, for messages: "chain", "file of options".

    Raises:
        ConfigError: as `read_small_text` and `parse_yaml`.
    """
    return parse_yaml(read_small_text(file, max_bytes=max_bytes, holder=holder), str(file))


def read_small_text(file: Path, *, max_bytes: int, holder: str) -> str:
    """The text of a small file, see `read_yaml`. Raises ConfigError if it is unreadable, too large or not UTF-8."""
    try:
        with file.open("rb") as opened:
            content = opened.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise ConfigError(f"{file} has more than {max_bytes:,} bytes, which no {holder} has")
        return content.decode()
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist{near_file(file)}") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
