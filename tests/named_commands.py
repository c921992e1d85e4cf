"""Every command that a page, a document or a message names, and whether it can be run like that."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from flywheel.cli import cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [
    *sorted((ROOT / "flywheel" / "console").rglob("*.html")),
    *sorted((ROOT / "flywheel" / "console" / "static").rglob("*.js")),
    ROOT / "deploy" / "observability" / "alerts.yml",
]
SOURCES = [
    path for folder in ("flywheel", "streams", "storage") for path in (ROOT / folder).rglob("*.py")
]
_WORDS = r"(?:flywheel|make|curl) "
_INLINE = re.compile(rf"`({_WORDS}[^`]+)`")
_PAGE = re.compile(rf"(?:<code>|`)({_WORDS}[^<`]+)(?:</code>|`)")
# Functions that write a `flywheel` command into a message, given its words.
_WRITERS = {"flywheel_command", "command"}
PLACEHOLDER = "PLACEHOLDER"


@dataclass(frozen=True)
class Named:
    """A command as it stands somewhere. ``complete``: it claims that it can be run like that."""

    where: str
    text: str
    complete: bool

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return [word for word in shlex.split(self.text, comments=True) if word != "&"]


def everywhere() -> list[Named]:
    """All of them."""
    found = [named for path in DOCUMENTS for named in in_document(path)]
    found += [named for path in PAGES for named in _in_page(path)]
    return found + [named for path in SOURCES for named in _in_source(path)]


def in_document(path: Path) -> Iterator[Named]:
    """Code blocks hold commands to be run, line by line; inline ones may only name an option."""
    where, text = str(path.relative_to(ROOT)), path.read_text("utf-8")
    parts = re.split(r"^ *```\w*$", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if number % 2:
            yield from (Named(where, command, True) for command in _commands(part))
        else:
            for inline in _INLINE.findall(part):
                yield Named(where, " ".join(inline.split()), False)


def _commands(block: str) -> Iterator[str]:
    """The commands of a code block, each with the lines that it goes on over."""
    gathered = ""
    for line in block.splitlines():
        gathered = f"{gathered}\n{line}" if gathered else line.strip()
        if not re.match(_WORDS, gathered):
            gathered = ""
            continue
        if gathered.endswith("\\"):
            gathered = gathered[:-1]
            continue
        try:
            shlex.split(gathered, comments=True)
        except ValueError:
            continue  # a quote is still open
        yield gathered
        gathered = ""


def _in_page(path: Path) -> Iterator[Named]:
    text = re.sub(r"\{\{[^}]*\}\}|\$\{[^}]*\}", PLACEHOLDER, path.read_text("utf-8"))
    where = str(path.relative_to(ROOT))
    for command in _PAGE.findall(text):
        yield Named(where, " ".join(command.replace("&quot;", '"').split()), True)


def _in_source(path: Path) -> Iterator[Named]:
    """A message's commands can be run; a docstring and a name alone only say which one is meant."""
    tree = ast.parse(path.read_text("utf-8"))
    where = str(path.relative_to(ROOT))
    documents = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts = {
        value for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func) in _WRITERS:
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from (Named(where, f"flywheel {word}", True) for word in words)
        if node in parts or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        # A comment of the template goes on in the next line with its own mark.
        for command in _INLINE.findall(re.sub(r"\n *#", " ", _text(node))):
            yield Named(where, " ".join(command.split()), node not in documents)


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else ""


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return PLACEHOLDER


def problem(named: Named) -> str | None:
    """Why this could not be run, or None."""
    program, *words = named.words
    if program == "flywheel":
        # "rollout pause|resume" names one command for each.
        several = itertools.product(*(word.split("|") for word in words))
        found = (_flywheel_problem(list(one), named.complete) for one in several)
        return next((one for one in found if one is not None), None)
    if program == "make":
        return _make_problem(words)
    addressed = any(word.startswith("http://127.0.0.1:") for word in words)
    return None if addressed or not named.complete else "no address on this machine"


def _flywheel_problem(words: list[str], complete: bool) -> str | None:
    if words[-1:] == ["…"] and not words[-2:-1][0].startswith("--"):
        words = words[:-1]
    command: click.Command = cli
    context = click.Context(cli, info_name="flywheel")
    while isinstance(command, click.Group):
        try:
            _, words, _ = command.make_parser(context).parse_args(list(words))
        except click.UsageError as error:
            return None if _cut_off(error, complete) else error.format_message()
        if not words:
            alone = command.invoke_without_command or not complete
            return None if alone else f"{context.command_path} needs a command"
        name, *words = words
        if name == PLACEHOLDER:
            return None
        child = command.get_command(context, name)
        if child is None:
            return f"{context.command_path} knows no {name!r}"
        command, context = child, click.Context(child, context, info_name=name)
    return _leaf_problem(command, context, words, complete)


def _leaf_problem(
    command: click.Command, context: click.Context, words: list[str], complete: bool
) -> str | None:
    if not words:
        return None  # its name alone: "turns are made by `flywheel retrain`"
    try:
        values, rest, _ = command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return None if _cut_off(error, complete) else error.format_message()
    if "help" in values:
        return None
    if rest:
        return f"{context.command_path}: unexpected {rest}"
    for parameter in command.params:
        value = values.get(parameter.name or "")
        given = isinstance(value, str | int | float | bool | list | tuple) and value not in ((), [])
        if complete and parameter.required and not given:
            return f"{context.command_path} needs {parameter.opts[0]}"
        if given and isinstance(parameter.type, click.Choice) and isinstance(value, str):
            try:
                parameter.type.convert(value, parameter, context)
            except click.UsageError as error:
                return error.format_message()
    return None


def _cut_off(error: click.UsageError, complete: bool) -> bool:
    """`flywheel serve --folder` names an option, without a value for it."""
    return not complete and "requires an argument" in error.format_message()


def _make_problem(words: list[str]) -> str | None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    target = words[0]
    if target not in targets:
        return f"make knows no {target!r}"
    for word in words[1:]:
        name, _, value = word.partition("=")
        if name == "ARGS" and target == "demo":
            return _flywheel_problem(["demo", *shlex.split(value)], True)
        if name not in ("ARGS", "KIND", "WORKSPACE"):
            return f"the Makefile has no {name}"
    return None
