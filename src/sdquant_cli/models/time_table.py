"""Time-information precalculation (Efficiency Meets Fidelity, section 4.2, eq. 8).

The time embedding and all projections of it leave the denoiser, which looks their results up instead.
In SD v1 and v2 these depend on the timestep alone: one table of rows serves every prompt. In SDXL and
SD3 the prompt is added before the projections, so the table is the prompt's own: it is computed for
all rows in one go when a prompt is first met, by the modules that were taken out.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conditioning import Conditioning
from .families import denoiser_of
from .layers import projections


@torch.no_grad()
def embed_timesteps(network: Any, timesteps: Sequence[float]) -> Tensor:
    """e_t (rows, D) in the network's dtype: what the timestep brings to the embedding."""
    denoiser = denoiser_of(network)
    embedding = getattr(network, denoiser.embedding[0])  # other layers may be without numbers
    t = torch.tensor(timesteps, dtype=torch.float32, device=next(embedding.parameters()).device)
    return denoiser.embed_timestep(network, t)


@torch.no_grad()
def project(layers: dict[str, nn.Linear], embedding: Tensor) -> dict[str, Tensor]:
    """e_p of every projection: module path -> (rows, C_out), from the embedding (rows, D)."""
    activated = F.silu(embedding)
    return {name: layer(activated) for name, layer in layers.items()}


def tabulate(network: Any, timesteps: Sequence[float]) -> dict[str, Tensor]:
    """e_p for every timestep, of a network whose embedding is the timestep's alone."""
    return project(projections(network), embed_timesteps(network, timesteps))


class CurrentRows(Protocol):
    """Which table row each item of the current batch uses."""

    def current(self, items: int) -> Tensor:
        """Rows (items,) of the batch in hand, or (1,) where all share one."""

    def follow(self, network: nn.Module) -> None:
        """Take the rows from the timestep of each call of the network."""


class _TableRow(nn.Module):
    """Stands where a projection was: returns the rows of the current items, whatever it is given."""

    table: Tensor

    def __init__(self, table: Tensor, rows: CurrentRows) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.rows = rows

    def forward(self, embedding: Tensor) -> Tensor:
        return self.table[self.rows.current(len(embedding))]


class PromptTables:
    """Time features of the prompts in hand, by the modules taken out of a network."""

    def __init__(self, network: Any, embedded: Tensor, rows: CurrentRows) -> None:
        """`embedded` (rows, D): e_t. Call before the modules are taken out of `network`."""
        self._embedded, self._rows = embedded, rows
        self._projections, self._embed = projections(network), denoiser_of(network).embed_prompt
        self._beside = nn.Module()  # of the network, the parts that embed prompts and nothing else
        for name in denoiser_of(network).prompt_modules:
            setattr(self._beside, name, getattr(network, name))
        self._of: Conditioning | None = None  # what `_tables` is of
        self._tables: dict[str, Tensor] = {}  # (rows, items, C_out)
        self._now: dict[str, Tensor] = {}  # (items, C_out)

    def follow(self, network: nn.Module) -> None:
        """From now on each call of the network, after its rows are set, brings its items' features."""
        network.register_forward_pre_hook(self._before_call, with_kwargs=True)

    def current(self, name: str) -> Tensor:
        """Features (items, C_out) of the batch in hand."""
        return self._now[name]

    def _before_call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.set(_told(args, kwargs))

    @torch.no_grad()
    def set(self, conditioning: Conditioning) -> None:
        """Items told this are in hand, at the rows that are set."""
        row = self._rows.current(len(conditioning)).to(self._embedded.device)
        if len(row.unique()) > 1:  # a training batch: each item at a step of its own
            prompt = self._embed(self._beside, conditioning)
            self._now = project(self._projections, self._embedded[row] + prompt)
            return
        if self._of is None or not _same(self._of, conditioning):
            self._of, self._tables = conditioning, self._all_rows(self._embed(self._beside, conditioning))
        self._now = {name: table[int(row[0])] for name, table in self._tables.items()}

    def _all_rows(self, prompt: Tensor) -> dict[str, Tensor]:
        both = self._embedded[:, None] + prompt[None]  # (rows, items, D)
        return project(self._projections, both)


def _told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Conditioning:
    """The conditioning of a call in diffusers' own words."""
    tokens = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
    if (added := kwargs.get("added_cond_kwargs")) is not None:
        return Conditioning(tokens, added["text_embeds"], added["time_ids"])
    return Conditioning(tokens, kwargs["pooled_projections"])


def _same(a: Conditioning, b: Conditioning) -> bool:
    pairs = ((a.pooled, b.pooled), (a.size, b.size))
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


class _PromptRow(nn.Module):
    """Stands where a projection was: returns the features of the current items."""

    def __init__(self, name: str, tables: PromptTables) -> None:
        super().__init__()
        self.name, self.tables = name, tables

    def forward(self, embedding: Tensor) -> Tensor:
        return self.tables.current(self.name).expand(len(embedding), -1)


class _NoEmbedding(nn.Module):
    """Stands where the time embedding was: one zero per item."""

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        like = first if second is None else second
        return like.new_zeros(len(like), 1)


def run_on_table(network: Any, table: dict[str, Tensor], rows: CurrentRows) -> None:
    """Remove the time path from `network`, in place; from then on it reads `table` by the rows."""
    like = next(network.parameters())
    for name, values in table.items():
        network.set_submodule(name, _TableRow(values.to(like), rows))
    _remove_embedding(network)
    rows.follow(network)


def run_on_prompt_tables(network: Any, embedded: Tensor, rows: CurrentRows) -> PromptTables:
    """As `run_on_table`, where each prompt has features of its own; e_t (rows, D) is `embedded`."""
    tables = PromptTables(network, embedded.to(next(network.parameters())), rows)
    for name in projections(network):
        network.set_submodule(name, _PromptRow(name, tables))
    _remove_embedding(network)
    rows.follow(network)
    tables.follow(network)
    return tables


def _remove_embedding(network: Any) -> None:
    for name in denoiser_of(network).embedding:
        if getattr(network, name, None) is not None:
            setattr(network, name, _NoEmbedding())
