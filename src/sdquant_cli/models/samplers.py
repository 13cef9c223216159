"""Samplers: diffusers' schedulers, as the pipeline of the model's family has them and calls them."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UsageProblem, first_line
from ..types import Scheduler
from .families import Config, Family
from .pipelines import in_pipeline, pipeline_class_of

# whatever a scheduler raises where it cannot run a schedule, the user reads one line
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
SOLVER = ("algorithm_type", "solver_type", "final_sigmas_type")  # names of one class's own algorithms
ITEMS, SIDE = 2, 4  # of the latent that a rehearsal draws


class Sampler(Protocol):
    """A scheduler of diffusers; most have `init_noise_sigma` and `scale_model_input` too."""

    config: Config
    timesteps: Tensor  # of each call of the network

    def step(self, prediction: Tensor, timestep: Tensor, latents: Tensor, **options: object) -> "Step": ...

    def set_timesteps(self, steps: int, **options: float) -> None: ...


class Step(Protocol):
    """What `step` returns."""

    prev_sample: Tensor


@contextmanager
def _quietly() -> Iterator[None]:
    """Within: what diffusers has to say about old configurations, and numpy about them, is not heard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refused(problem: str) -> Iterator[None]:
    """Within: whatever a scheduler raises is a UsageProblem that says what the problem is, and the reason."""
    try:
        with _quietly():
            yield
    except UsageProblem:
        raise
    except REFUSALS as error:
        raise UsageProblem(f"{problem} ({first_line(error)})") from None


def class_name_of(name: str) -> str:
    """The class of diffusers behind a name of a setting."""
    return Scheduler(name).class_name if name in set(Scheduler) else name


def scheduler_class(name: str) -> Any:
    """The scheduler class behind a name; raises UsageProblem if diffusers has none, or cannot use it here."""
    import diffusers

    class_name = class_name_of(name)
    cls = getattr(diffusers, class_name, None)
    if not isinstance(cls, type):
        raise UsageProblem(
            f"--scheduler {name}: diffusers {diffusers.__version__} has no {class_name}; expected one of "
            f"{', '.join(Scheduler)}, or a class that it has"
        )
    with _refused(f"--scheduler {name}: {class_name} cannot be used"):  # where its own libraries are missing
        for method in ("set_timesteps", "step"):
            if not hasattr(cls, method):
                raise ValueError(f"it has no {method}")
    return cls


def from_config(name: str, config: Config) -> Sampler:
    """A scheduler of any class on the noise schedule of another one's `config`, as diffusers makes it.

    Where that refuses the configuration, without the algorithms that it names: they are the other class's.
    """
    cls = scheduler_class(name)
    try:
        with _quietly():
            return cls.from_config(dict(config))
    except REFUSALS:
        rest = {key: value for key, value in config.items() if key not in SOLVER}
        with _refused(f"--scheduler {name}: {cls.__name__} refuses the model's configuration"):
            return cls.from_config(rest)


def is_flow(sampler: Sampler) -> bool:
    """Tell if a sampler is of flow matching, whose noisy latents are (1 - s) x + s noise."""
    return not hasattr(sampler, "init_noise_sigma") or bool(sampler.config.get("use_flow_sigmas"))


def check_family(family: Family, name: str, sampler: Sampler) -> None:
    """Raise UsageProblem for a sampler that the family's pipeline has no use for."""
    if family.flow and not is_flow(sampler):
        raise UsageProblem(
            f"--scheduler {name}: {family.name} takes {Scheduler.FLOW_EULER} and other schedulers of flow "
            f"matching"
        )
    missing = [each for each in ("init_noise_sigma", "scale_model_input") if not hasattr(sampler, each)]
    if missing and not family.flow:
        raise UsageProblem(
            f"--scheduler {name}: {class_name_of(name)} has no {missing[0]}, which {family.name} needs"
        )


class Samplers:
    """The samplers of a model: on its noise schedule, as its family's pipeline has them."""

    def __init__(self, family: Family, own: str, config: Config, where: Path) -> None:
        """`own` names the model's scheduler; `config` is its configuration, in the file `where`."""
        self.family, self._own, self._where = family, own, where
        self._config = config
        self._schedulers: dict[str, Sampler] = {}  # by name, their timesteps not set

    def begin(self, name: str, steps: int, tokens: int) -> Sampler:
        """A sampler at the beginning of a trajectory over latents of so many tokens."""
        if name not in self._schedulers:
            scheduler = from_config(name, self._noise_schedule)
            check_family(self.family, name, scheduler)
            self._schedulers[name] = self._in_pipeline(scheduler)
        sampler = copy.deepcopy(self._schedulers[name])
        set_timesteps(sampler, steps, tokens, indexed=self.family.indexed)
        return sampler

    @cached_property
    def _noise_schedule(self) -> Config:
        """The configuration of the model's own scheduler, as the pipeline has it."""
        cls = scheduler_class(self._own)
        with _refused(f"{self._where}: {cls.__name__} refuses it"):
            own = cls.from_config(dict(self._config))
        return self._in_pipeline(own).config

    def _in_pipeline(self, scheduler: Sampler) -> Sampler:
        with _quietly():
            return in_pipeline(pipeline_class_of(self.family), scheduler)


def set_timesteps(sampler: Sampler, steps: int, tokens: int, *, indexed: bool = False) -> None:
    """Begin a trajectory of `steps`; `tokens` of a latent decide the shift where it is dynamic.

    `indexed`: the sampler is told that it begins at its first timestep, which it else looks up.
    """
    config, more = sampler.config, {}
    if config.get("use_dynamic_shifting"):
        # linear in the number of tokens, as StableDiffusion3Pipeline does
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        bottom, top = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
        more["mu"] = bottom + (top - bottom) * (tokens - low) / (high - low)
    trained = config.get("num_train_timesteps")
    if trained is not None and not 1 <= steps <= trained:
        raise UsageProblem(f"--steps {steps}: expected 1..{trained}")
    with _refused(f"--steps {steps}: {type(sampler).__name__} cannot run them"):
        sampler.set_timesteps(steps, **more)
    if indexed and hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(0)


class Trajectory:
    """Latents (N,C,h,w) on their way from noise to picture, one call of the network after the other."""

    def __init__(
        self, sampler: Sampler, noise: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> None:
        """`sampler` has its timesteps set; `generators` (N) are for one that adds noise."""
        self.sampler = sampler
        self.call = 0
        self.latents = noise * getattr(sampler, "init_noise_sigma", 1.0)
        # what the pipelines' `prepare_extra_step_kwargs` gives
        takes = inspect.signature(sampler.step).parameters
        self._more: dict[str, object] = {"eta": 0.0} if "eta" in takes else {}
        if generators is not None and "generator" in takes:
            self._more["generator"] = list(generators)

    @property
    def calls(self) -> int:
        """Calls of a whole trajectory."""
        return len(self.sampler.timesteps)

    @property
    def finished(self) -> bool:
        return self.call == self.calls

    @property
    def timestep(self) -> Tensor:
        """The timestep of the next call."""
        timestep: Tensor = self.sampler.timesteps[self.call]
        return timestep

    def input(self) -> Tensor:
        """Return the input of the network at the next call; flow matching takes latents as they are."""
        if not hasattr(self.sampler, "scale_model_input"):
            return self.latents
        scaled: Tensor = self.sampler.scale_model_input(self.latents, self.timestep)
        return scaled

    def advance(self, prediction: Tensor) -> None:
        """Take the call's prediction (N,C,h,w), guidance applied."""
        self.latents = self.sampler.step(prediction, self.timestep, self.latents, **self._more).prev_sample
        self.call += 1


def rehearse(sampler: Sampler, steps: int, channels: int, predicted: int) -> None:
    """Run all steps on a small random latent; raises UsageProblem if that fails or is not finite.

    The sampler is used up. `channels` are those of the latent, `predicted` those of the prediction.
    """
    problem = f"--steps {steps}: {type(sampler).__name__} cannot run them"
    generators = [torch.Generator().manual_seed(seed) for seed in range(ITEMS + 1)]
    with torch.random.fork_rng(devices=[]), _refused(problem):
        before = torch.random.get_rng_state()
        path = Trajectory(sampler, _random(channels, generators[-1]), generators[:ITEMS])
        while not path.finished:
            path.input()
            path.advance(_random(predicted, generators[-1]))
            if not bool(path.latents.isfinite().all()):
                kind = sampler.config.get("prediction_type")
                raise ValueError(f"NaN or infinity at call {path.call - 1}, prediction_type {kind}")
        if path.latents.shape[1] != channels:
            raise ValueError(f"it makes {path.latents.shape[1]} channels of {channels}")
        if not torch.equal(before, torch.random.get_rng_state()):
            raise ValueError("it adds noise that no seed decides")


def _random(channels: int, generator: torch.Generator) -> Tensor:
    return torch.randn(ITEMS, channels, SIDE, SIDE, generator=generator)
