"""docs/cli.md's list of commands, from the commands themselves: `python -m tests.command_docs` writes it again."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from worldkv.cli import app

FILE = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN = "## Commands\n"
"""What comes after this is made by `listed`."""


def listed() -> str:
    """Every command with its arguments and options, as Markdown."""
    return "\n".join(_command(typer.main.get_command(app), "worldkv"))


def _command(command: Any, path: str) -> Iterator[str]:
    children = getattr(command, "commands", {})
    shown = [each for each in command.params if each.name not in ("help", "install_completion", "show_completion")]
    if path != "worldkv":
        yield f"### `{' '.join([path, *(_metavar(each) for each in shown if _positional(each))])}`\n"
        yield f"{_words(command.help)}\n"
        if shown:
            yield "| | | default |"
            yield "| --- | --- | --- |"
            yield from map(_row, shown)
            yield ""
    for name, child in sorted(children.items()):
        yield from _command(child, f"{path} {name}")


def _positional(each: Any) -> bool:
    return bool(each.param_type_name == "argument")


def _metavar(each: Any) -> str:
    name = each.name.rstrip("_").upper() + ("..." if each.nargs == -1 else "")
    return name if each.required else f"[{name}]"


def _row(each: Any) -> str:
    names = f"`{_metavar(each)}`" if _positional(each) else ", ".join(f"`{name}`" for name in each.opts)
    kind = each.type_descriptor.annotation
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    about = _words(each.help) + (f" One of {', '.join(map(str, choices))}." if choices else "")
    if variable := getattr(each, "envvar", None):
        about += f" `{variable}`"
    default = each.default() if callable(each.default) else each.default
    value = "" if default in (None, False, "", ()) or each.required else f"`{default}`"
    return f"| {names} | {about} | {value} |"


def _words(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|").strip()


if __name__ == "__main__":
    FILE.write_text(FILE.read_text().partition(BEGIN)[0] + BEGIN + "\n" + listed())
