"""Forward hooks that come off again: see what modules receive and return, while a context lasts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def watching_inputs(modules: "Mapping[str, nn.Module]", see: Callable[..., None]) -> Iterator[None]:
    """Call `see(name, args, kwargs)` before each of the modules runs, within the context."""

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, args, kwargs: see(name, args, kwargs)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(hook(name), with_kwargs=True))
        yield


@contextmanager
def watching_outputs(modules: "Mapping[str, nn.Module]", see: Callable[..., None]) -> Iterator[None]:
    """Call `see(name, output)` after each of the modules has run, within the context.

    An output may be part of a graph: keep what you need of it, detached, and not the output itself.
    """

    def hook(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: see(name, output)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(hook(name)))
        yield
