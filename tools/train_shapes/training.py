"""What the training scripts share: the data stream, the learning rate, checkpoints, averaged weights."""

import copy
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from sdquant_cli.paths import partial_file

RUNS = Path("runs/train_shapes")  # git-ignored: data, logs and checkpoints


def scheduled_rate(update: int, updates: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up, then cosine to zero."""
    if update < warmup:
        return peak * (update + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (update - warmup) / max(1, updates - warmup)))


class Average:
    """Exponential moving average of a module's weights; young averages forget faster."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, update: int) -> None:
        decay = min(self.decay, (1 + update) / (10 + update))
        for mean, value in zip(self.module.parameters(), module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def save_atomically(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path) as partial:
        torch.save(state, partial)


def join_workers() -> tuple[int, int]:
    """(rank, workers). Under `torchrun` the workers share the work; alone there is one.

    One single-threaded worker per core keeps its pace beside other work, where threads would wait.
    """
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    return dist.get_rank(), dist.get_world_size()


@torch.no_grad()
def average_gradients(module: nn.Module, workers: int) -> None:
    if workers == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= workers
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[int, torch.Generator], torch.Tensor],
    *,
    updates: int,
    rate: float,
    decay: float,
    weight_decay: float = 0.01,
    checkpoint_every: int = 250,
) -> nn.Module:
    """Train `module` with AdamW and return its averaged weights; resumes from the last checkpoint.

    `loss_of(update, generator)` must draw all its randomness from the generator, which is seeded
    from the update's number and the worker's rank: a resumed run sees the batches of an undisturbed one.
    """
    rank, workers = join_workers()
    path = RUNS / f"{name}.pt"
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    average = Average(module, decay)
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["update"]
    log, began = [], time.perf_counter()
    for update in range(start, updates):
        for group in optimizer.param_groups:
            group["lr"] = scheduled_rate(update, updates, rate)
        loss = loss_of(update, torch.Generator().manual_seed(update * workers + rank))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(module, workers)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if rank:
            continue
        average.update(module, update)
        log.append(float(loss.detach()))
        if (update + 1) % 50 == 0:
            pace = (time.perf_counter() - began) / (update + 1 - start)
            print(
                f"{name} {update + 1}/{updates} loss {sum(log) / len(log):.5f} {pace:.2f} s/update",
                flush=True,
            )
            log.clear()
        if (update + 1) % checkpoint_every == 0 or update + 1 == updates:
            state = {"module": module.state_dict(), "average": average.module.state_dict()}
            save_atomically({**state, "optimizer": optimizer.state_dict(), "update": update + 1}, path)
    if workers > 1:
        dist.barrier()
    return average.module
