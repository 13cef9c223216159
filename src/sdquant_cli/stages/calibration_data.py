"""Reads a latents artifact, with the text embeddings it was made with, as calibration items."""

import torch

from ..methods.items import Items
from ..store import Artifact, Store


def load_items(store: Store, latents: Artifact, table: Artifact, count: int | None = None) -> Items:
    """The first `count` latents (all by default) as calibration items."""
    embeds = store.follow(latents.manifest.inputs["text-embeds"])
    index = embeds.read("index")
    return Items(
        x=torch.from_numpy(latents.read("x", 0, count)),
        row=torch.from_numpy(latents.read("row", 0, count)),
        text=torch.from_numpy(index[latents.read("prompt_index", 0, count)]),
        embeddings=torch.from_numpy(embeds.read("embedding")),
        timesteps=torch.from_numpy(table.read("timestep")).float(),
    )
