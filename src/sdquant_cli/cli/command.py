"""A command of the application: its flags come from `options`, its values go into a request.

Flags are built when they are first asked for, so that `sdquant --help` imports no request.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import UsageProblem
from ..ranks import leave
from ..types import Preset
from .errors import PlainCommand, request_of
from .parallel import takes_part, together

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter  # Typer's own copy of click

    from ..options.base import Fields
    from ..options.commands import CommandOptions
    from ..options.option import Flag


@dataclass(frozen=True)
class Invocation:
    """The words of a command line beside the request."""

    store: str = ""
    dry_run: bool = False
    json: bool = False


Body = Callable[[Any, Invocation], None]


class OptionsCommand(PlainCommand):
    """A command that builds its request and hands it to a function."""

    def __init__(self, name: str, body: Body) -> None:
        super().__init__(name, help=reflowed(inspect.getdoc(body) or ""), rich_markup_mode="rich")
        self.body = body

    @property
    def options(self) -> "CommandOptions":
        """The description of the command's options."""
        from ..options.commands import COMMANDS

        assert self.name is not None
        return COMMANDS[self.name]

    def get_params(self, ctx: "Context") -> "list[Parameter]":
        """Return the command's parameters, built on the first call."""
        if not self.params:
            self.params = parameters(self.options.flags)
        return super().get_params(ctx)

    def invoke(self, ctx: "Context") -> None:
        """Run the command's function with its request."""
        shared = {flag.name: ctx.params[flag.name] for flag in self.options.shared}
        preset = shared.pop("preset", None)
        values = {flag.name: flag.value(ctx.params[flag.name]) for flag in self.options.request_flags}
        filled = _preset_values(ctx, preset) if preset else {}
        request: Fields = request_of(self.options.request, **(values | filled))
        call = Invocation(**shared)
        try:
            if takes_part(self.options, request, call):
                with _naming_the_preset(preset, filled), together(self.options, call):
                    self.body(request, call)
        finally:
            leave()


def reflowed(text: str) -> str:
    """Return a text with its paragraphs in one line each, which help wraps to the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def parameters(flags: "list[Flag]") -> "list[Parameter]":
    """Return Typer's parameters for flags."""

    def collect() -> None: ...

    collect.__signature__ = inspect.Signature([_parameter(flag) for flag in flags])  # type: ignore[attr-defined]
    builder = typer.Typer(add_completion=False)
    builder.command(cls=TyperCommand)(collect)
    return typer.main.get_command(builder).params


def _parameter(flag: "Flag") -> inspect.Parameter:
    option = flag.option
    info = (
        typer.Argument(help=option.help, metavar=option.metavar)
        if option.argument
        else typer.Option(
            _declaration(flag),
            help=option.help,
            metavar=option.metavar,
            envvar=option.envvar,
            rich_help_panel=option.panel.value,
        )
    )
    return inspect.Parameter(
        flag.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[_typed(flag), info],
        default=inspect.Parameter.empty if flag.required else _default(flag),
    )


def _declaration(flag: "Flag") -> str:
    if flag.option.negative:
        return f"{flag.spelling}/--no-{flag.spelling.removeprefix('--')}"
    return flag.spelling


def _typed(flag: "Flag") -> object:
    """Return the type that Typer reads a flag's words as."""
    if isinstance(flag.default, tuple):
        return str | None if flag.option.commas else list[str] | None
    return flag.type if flag.default is not None or flag.required else flag.type | None


def _default(flag: "Flag") -> object:
    if isinstance(flag.default, tuple):
        return ",".join(flag.default) or None if flag.option.commas else None
    return flag.default


def _preset_values(ctx: "Context", preset: Preset) -> dict[str, object]:
    """Return the values of a preset for a command, but for those that the user gave."""
    from ..options.presets import preset_values

    typed = [name for name in ctx.params if _is_typed(ctx, name)]
    return preset_values(preset, ctx.command.name or "", typed)


@contextmanager
def _naming_the_preset(preset: Preset | None, filled: Mapping[str, object]) -> Iterator[None]:
    """Add to a UsageProblem about an option that the user did not type that the preset set it."""
    try:
        yield
    except UsageProblem as error:
        flag = str(error).partition(":")[0].partition(" ")[0]
        if flag.removeprefix("--").replace("-", "_") not in filled:
            raise
        raise UsageProblem(f"{error}; --preset {preset} sets {flag}; change one of them") from None


def _is_typed(ctx: "Context", name: str) -> bool:
    """Tell whether the user gave a flag a value, whichever it is."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
