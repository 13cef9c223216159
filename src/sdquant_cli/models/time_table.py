"""Time-information precalculation (Efficiency Meets Fidelity, section 4.2, eq. 8).

The time embedding and all its projections leave the denoiser, which looks their results up instead. In SD v1
and v2 these depend on the timestep alone: one table serves every prompt. In SDXL and SD3 the prompt is added
before the projections, so each prompt has its own table: when a prompt is first met, the modules that were
taken out compute it for all rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageProblem
from .conditioning import Conditioning
from .families import denoiser_of
from .guidance import embed_scale
from .layers import projections

_GUIDANCE_TOLERANCE = 0.01  # between embeddings of one guidance scale: those of half precision are rounded


@torch.no_grad()
def embed_timesteps(network: nn.Module, timesteps: Sequence[float], guidance: Tensor | None = None) -> Tensor:
    """Return e_t (rows, D) in the network's dtype: the timesteps' part of the embedding.

    `guidance` (1,G) is the embedding of the guidance scale, in a network that takes one.
    """
    denoiser = denoiser_of(network)
    embedding = network.get_submodule(denoiser.embedding[0])  # other layers may be on the meta device
    t = torch.tensor(timesteps, dtype=torch.float32, device=next(embedding.parameters()).device)
    return denoiser.embed_timestep(network, t, guidance)


@torch.no_grad()
def project(layers: Mapping[str, nn.Linear], embedding: Tensor) -> dict[str, Tensor]:
    """Return e_p (rows, C_out) of every projection by module path, from the embedding (rows, D)."""
    activated = F.silu(embedding)
    return {name: layer(activated) for name, layer in layers.items()}


def tabulate(
    network: nn.Module, timesteps: Sequence[float], guidance: Tensor | None = None
) -> dict[str, Tensor]:
    """Return e_p for every timestep, of a network whose embedding does not depend on the prompt.

    The embedding itself comes last where other modules read it too.
    """
    embedded, denoiser = embed_timesteps(network, timesteps, guidance), denoiser_of(network)
    table = project(projections(network), embedded)
    return table | ({denoiser.embedding[0]: embedded} if denoiser.reads_embedding else {})


class CurrentRows(Protocol):
    """The table row of each item of the current batch."""

    def current(self, items: int) -> Tensor:
        """Return the rows (items,) of the current batch, or (1,) where all items share one."""

    def follow(self, network: nn.Module) -> None:
        """Take the rows from the timestep of each call of the network."""


class _TableRow(nn.Module):
    """Replaces a part of the time path: returns the table rows of the current items, whatever the input."""

    table: Tensor

    def __init__(self, table: Tensor, rows: CurrentRows) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.rows = rows

    def forward(self, first: Tensor, *_: object, **__: object) -> Tensor:
        return self.table[self.rows.current(len(first))]


class PromptTables:
    """Time features of the current prompts, by the modules taken out of a network."""

    def __init__(self, network: nn.Module, embedded: Tensor, rows: CurrentRows) -> None:
        """Take e_t (rows, D) as `embedded`; call this before the modules are taken out of `network`."""
        self._embedded, self._rows = embedded, rows
        denoiser = denoiser_of(network)
        self._projections, self._embed_prompt = projections(network), denoiser.embed_prompt
        self._prompt_modules = nn.Module()  # the modules of the network that embed prompts and nothing else
        for name in denoiser.prompt_modules:
            setattr(self._prompt_modules, name, getattr(network, name))
        self._conditioning: Conditioning | None = None  # of `_tables`
        self._tables: dict[str, Tensor] = {}  # (rows, items, C_out)
        self._features: dict[str, Tensor] = {}  # (items, C_out)

    def follow(self, network: nn.Module) -> None:
        """Set the features before each call of the network, from its conditioning and the current rows."""
        network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def current(self, name: str) -> Tensor:
        """Return a projection's features (items, C_out) for the current batch."""
        return self._features[name]

    def _before_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.set(_conditioning_of(args, kwargs))

    @torch.no_grad()
    def set(self, conditioning: Conditioning) -> None:
        """Set the batch's conditioning; its rows are set before."""
        row = self._rows.current(len(conditioning)).to(self._embedded.device)
        if len(row.unique()) > 1:  # a training batch: each item at its own timestep
            prompt = self._embed_prompt(self._prompt_modules, conditioning)
            self._features = project(self._projections, self._embedded[row] + prompt)
            return
        if self._conditioning is None or not _same_prompts(self._conditioning, conditioning):
            prompt = self._embed_prompt(self._prompt_modules, conditioning)
            embedding = self._embedded[:, None] + prompt[None]  # (rows, items, D)
            self._conditioning, self._tables = conditioning, project(self._projections, embedding)
        self._features = {name: table[int(row[0])] for name, table in self._tables.items()}


def _conditioning_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Conditioning:
    """Return the conditioning in the arguments of a diffusers denoiser."""
    tokens = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
    added = kwargs.get("added_cond_kwargs")
    if added is not None:
        return Conditioning(tokens, added["text_embeds"], added["time_ids"])
    return Conditioning(tokens, kwargs["pooled_projections"])


def _same_prompts(a: Conditioning, b: Conditioning) -> bool:
    return _equal(a.pooled, b.pooled) and _equal(a.size, b.size)


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a is b or torch.equal(a, b)


class _PromptRow(nn.Module):
    """Replaces a projection: returns the features of the current items, whatever the input."""

    def __init__(self, name: str, tables: PromptTables) -> None:
        super().__init__()
        self.name, self.tables = name, tables

    def forward(self, embedding: Tensor) -> Tensor:
        return self.tables.current(self.name).expand(len(embedding), -1)


class _NoEmbedding(nn.Module):
    """Replaces the time embedding: returns one zero per item."""

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        like = first if second is None else second
        return like.new_zeros(len(like), 1)


def run_on_table(network: nn.Module, table: Mapping[str, Tensor], rows: CurrentRows) -> None:
    """Remove the time path from `network`, in place; each call then reads `table` at the current rows."""
    like = next(network.parameters())
    for name, values in table.items():
        network.set_submodule(name, _TableRow(values.to(like), rows))
    _remove_embedding(network)
    rows.follow(network)


def refuse_other_guidance(network: nn.Module, scale: float) -> None:
    """Make later calls of `network` raise UsageProblem unless they have the embedding of this scale.

    Its table has the scale in it, and would not tell another one.
    """
    width = int(network.config.time_cond_proj_dim)  # type: ignore[union-attr,arg-type]

    def before_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        guidance = kwargs.get("timestep_cond", args[4] if len(args) > 4 else None)
        if guidance is None or not _is_near(guidance, embed_scale(scale, width)):
            raise UsageProblem(
                f"the guidance scale is not {scale:g}, which the time table was made with; call the pipeline "
                f"with guidance_scale={scale:g}, or calibrate with another --guidance-scale"
            )

    network.register_forward_pre_hook(before_call, with_kwargs=True)


def _is_near(guidance: Tensor, expected: Tensor) -> bool:
    distance = (guidance.detach().float().cpu() - expected).abs()
    return bool((distance < _GUIDANCE_TOLERANCE).all())


def run_on_prompt_tables(network: nn.Module, embedded: Tensor, rows: CurrentRows) -> PromptTables:
    """Do what `run_on_table` does where each prompt has its own table; `embedded` is e_t (rows, D)."""
    tables = PromptTables(network, embedded.to(next(network.parameters())), rows)
    for name in projections(network):
        network.set_submodule(name, _PromptRow(name, tables))
    _remove_embedding(network)
    rows.follow(network)
    tables.follow(network)
    return tables


def _remove_embedding(network: nn.Module) -> None:
    denoiser = denoiser_of(network)
    if denoiser.reads_embedding:  # the table has it
        return
    for name in denoiser.embedding:
        if getattr(network, name, None) is not None:
            setattr(network, name, _NoEmbedding())
