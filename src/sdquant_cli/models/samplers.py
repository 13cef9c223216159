"""Samplers: diffusers' schedulers, as the pipeline of the model's family holds them."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ..errors import UsageProblem, first_line
from ..types import Scheduler
from .families import Config, Family
from .pipelines import in_pipeline, pipeline_class_of

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# what a scheduler raises where it cannot run a schedule; the user reads one line of it
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
SOLVER = ("algorithm_type", "solver_type", "final_sigmas_type")  # each class has algorithms of its own


class Sampler(Protocol):
    """A scheduler of diffusers; most have `init_noise_sigma` and `scale_model_input` too."""

    config: Config
    timesteps: Tensor  # of each call of the network

    def step(self, prediction: Tensor, timestep: Tensor, latents: Tensor, **options: object) -> "Step":
        """Return the latents after a call, from the network's prediction."""

    def set_timesteps(self, steps: int, **options: float) -> None:
        """Set `timesteps` for so many steps."""


class Step(Protocol):
    """The result of `step`."""

    prev_sample: Tensor


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the warnings of diffusers about old configurations, and of numpy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def refused(problem: str) -> Iterator[None]:
    """Turn what a scheduler raises into a UsageProblem of `problem` and the reason."""
    try:
        with _quietly():
            yield
    except UsageProblem:
        raise
    except REFUSALS as error:
        raise UsageProblem(f"{problem} ({first_line(error)})") from None


def class_name_of(name: str) -> str:
    """Return the diffusers class of a scheduler name."""
    return Scheduler(name).class_name if name in set(Scheduler) else name


def scheduler_class(name: str) -> "type[SchedulerMixin]":
    """Return the class of a scheduler name; raise UsageProblem if diffusers lacks it or cannot use it."""
    import diffusers

    class_name = class_name_of(name)
    cls = getattr(diffusers, class_name, None)
    if not isinstance(cls, type):
        raise UsageProblem(
            f"--scheduler {name}: diffusers {diffusers.__version__} has no {class_name}; expected one of "
            f"{', '.join(Scheduler)} or the name of a scheduler class"
        )
    with refused(f"--scheduler {name}: {class_name} cannot be used"):  # it may lack a library
        for method in ("set_timesteps", "step"):
            if not hasattr(cls, method):
                raise ValueError(f"it has no {method}")
    return cls


def from_config(name: str, config: Config) -> Sampler:
    """Return a scheduler of any class on the noise schedule of another one's `config`.

    Where the class refuses the configuration, try without the solver that it names.
    """
    cls = scheduler_class(name)
    try:
        with _quietly():
            return cls.from_config(dict(config))
    except REFUSALS:
        rest = dict(config)
        for key in SOLVER:
            rest.pop(key, None)
        with refused(f"--scheduler {name}: {cls.__name__} refuses the model's configuration"):
            return cls.from_config(rest)


def is_flow(sampler: Sampler) -> bool:
    """Return whether a sampler is one of flow matching, whose noisy latents are (1 - s) x + s noise."""
    return not hasattr(sampler, "init_noise_sigma") or bool(sampler.config.get("use_flow_sigmas"))


def check_family(family: Family, name: str, sampler: Sampler) -> None:
    """Raise UsageProblem for a sampler that the family's pipeline cannot use."""
    if family.scheduler not in (None, class_name_of(name)):
        raise UsageProblem(f"--scheduler {name}: {family.name} needs {family.scheduler}; leave the flag out")
    if family.flow and not is_flow(sampler):
        raise UsageProblem(
            f"--scheduler {name}: {family.name} needs a flow-matching scheduler, such as "
            f"{Scheduler.FLOW_EULER}"
        )
    for attribute in ("init_noise_sigma", "scale_model_input"):
        if not family.flow and not hasattr(sampler, attribute):
            raise UsageProblem(
                f"--scheduler {name}: {class_name_of(name)} has no {attribute}, which {family.name} needs"
            )


class Samplers:
    """The samplers of a model: on its noise schedule, as its family's pipeline holds them."""

    def __init__(self, family: Family, default: str, config: Config, file: Path) -> None:
        """Take the name of the model's scheduler, and its configuration with the file that it is in."""
        self.family, self._default, self._config, self._file = family, default, config, file
        self._schedulers: dict[str, Sampler] = {}  # by name, their timesteps not set

    def begin(self, name: str, steps: int, tokens: int) -> Sampler:
        """Return a sampler with its timesteps set, for latents of so many tokens."""
        if name not in self._schedulers:
            scheduler = from_config(name, self._noise_schedule)
            check_family(self.family, name, scheduler)
            self._schedulers[name] = self._in_pipeline(scheduler)
        sampler = copy.deepcopy(self._schedulers[name])
        set_timesteps(sampler, steps, tokens, indexed=self.family.indexed)
        return sampler

    @cached_property
    def _noise_schedule(self) -> Config:
        """The configuration of the model's default scheduler, as the pipeline holds it."""
        cls = scheduler_class(self._default)
        with refused(f"{self._file}: {cls.__name__} refuses it"):
            default = cls.from_config(dict(self._config))
        return self._in_pipeline(default).config

    def _in_pipeline(self, scheduler: Sampler) -> Sampler:
        with _quietly():
            return in_pipeline(pipeline_class_of(self.family), scheduler)


def set_timesteps(sampler: Sampler, steps: int, tokens: int, *, indexed: bool = False) -> None:
    """Set the timesteps of `steps`; the tokens of a latent decide the shift where it is dynamic.

    With `indexed` the sampler's begin index is set too; without, it looks its first timestep up.
    """
    config, options = sampler.config, {}
    if config.get("use_dynamic_shifting"):
        # linear in the number of tokens, as StableDiffusion3Pipeline does
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        bottom, top = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
        options["mu"] = bottom + (top - bottom) * (tokens - low) / (high - low)
    trained = config.get("num_train_timesteps")
    if trained is not None and not 1 <= steps <= trained:
        raise UsageProblem(f"--steps {steps}: expected 1..{trained}")
    with refused(f"--steps {steps}: {type(sampler).__name__} cannot run them"):
        sampler.set_timesteps(steps, **options)
    if indexed and hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(0)
