"""The language of the embedded model and the pictures it describes.

A caption names one or two objects on a background; a picture is drawn from a caption and a
generator that jitters position, size, rotation and colour.  Nothing here knows a network.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 64

SIZES = ("big", "small")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
RELATIONS = ("left of", "right of", "above", "below")
PATTERNS = ("plain", "striped", "checkered", "gradient")
COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.65, 0.20),
    "blue": (0.12, 0.28, 0.90),
    "yellow": (0.98, 0.90, 0.12),
    "purple": (0.50, 0.12, 0.65),
    "orange": (0.98, 0.52, 0.08),
    "white": (0.97, 0.97, 0.97),
    "black": (0.05, 0.05, 0.05),
    "pink": (0.98, 0.55, 0.75),
    "cyan": (0.15, 0.85, 0.90),
}

# Pairs that training never shows: the test of generalisation to new combinations.
UNSEEN_OBJECTS = {
    ("pink", "circle"),
    ("cyan", "square"),
    ("purple", "triangle"),
    ("blue", "star"),
    ("green", "ring"),
    ("orange", "cross"),
}
UNSEEN_BACKGROUNDS = {
    ("plain", "orange"),
    ("striped", "yellow"),
    ("checkered", "purple"),
    ("gradient", "red"),
}


def shade(colour: str) -> tuple[float, float, float]:
    """The second colour of a patterned background: darker, and lighter for black."""
    if colour == "black":
        return (0.32, 0.32, 0.32)
    r, g, b = COLOURS[colour]
    return (0.65 * r, 0.65 * g, 0.65 * b)


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]  # one or two
    relation: str | None  # of the first thing to the second
    pattern: str
    colour: str  # of the background

    @property
    def caption(self) -> str:
        joined = f" {self.relation} ".join(map(str, self.things))
        return f"{joined} on a {self.pattern} {self.colour} background"

    @property
    def unseen(self) -> bool:
        """Whether the scene holds a pair of attributes that training never shows."""
        return (self.pattern, self.colour) in UNSEEN_BACKGROUNDS or any(
            (thing.colour, thing.shape) in UNSEEN_OBJECTS for thing in self.things
        )

    @property
    def held_out(self) -> bool:
        """One caption in twenty, by hash, is kept from training."""
        return hashlib.sha256(self.caption.encode()).digest()[0] < 13


def parse(caption: str) -> Scene:
    """Scene of a caption of the language; raises ValueError for any other text."""
    head, _, tail = caption.partition(" on a ")
    relation = next((r for r in RELATIONS if f" {r} " in head), None)
    parts = head.split(f" {relation} ") if relation else [head]
    try:
        things = tuple(Thing(*part.removeprefix("a ").split()) for part in parts)
        pattern, colour, word = tail.split()
    except (TypeError, ValueError):
        raise ValueError(f"not a caption of the language: {caption!r}") from None
    scene = Scene(things, relation, pattern, colour)
    if scene.caption != caption or word != "background":
        raise ValueError(f"not a caption of the language: {caption!r}")
    return scene


def _choice(options, generator: torch.Generator):
    options = tuple(options)
    return options[int(torch.randint(len(options), (), generator=generator))]


def draw_scene(generator: torch.Generator) -> Scene:
    """A random scene; all its colours differ."""
    count = 1 + int(torch.rand((), generator=generator) < 0.6)
    colours = [list(COLOURS)[i] for i in torch.randperm(len(COLOURS), generator=generator)]
    things = tuple(
        Thing(_choice(SIZES, generator), colours[1 + i], _choice(SHAPES, generator)) for i in range(count)
    )
    relation = _choice(RELATIONS, generator) if count == 2 else None
    return Scene(things, relation, _choice(PATTERNS, generator), colours[0])


def draw_scenes(count: int, split: str, seed: int) -> list[Scene]:
    """`count` scenes of a split: "train", "heldout" (new captions) or "unseen" (new combinations)."""
    accept = {
        "train": lambda s: not s.unseen and not s.held_out,
        "heldout": lambda s: not s.unseen and s.held_out,
        "unseen": lambda s: s.unseen,
    }[split]
    generator = torch.Generator().manual_seed(seed)
    endless = (draw_scene(generator) for _ in itertools.count())
    return list(itertools.islice(filter(accept, endless), count))


# ---------------------------------------------------------------------------------- pictures


def _signed_distances(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Distance in pixels to each shape's outline, negative inside: (len(SHAPES), N, H, W)."""
    radius = (x * x + y * y).sqrt()
    circle = radius - r
    square = torch.maximum(x.abs(), y.abs()) - 0.85 * r
    triangle = (
        torch.stack([math.sin(a) * x - math.cos(a) * y for a in (math.pi, math.pi / 3, -math.pi / 3)]).amax(0)
        - 0.55 * r
    )
    fold = torch.atan2(x, -y).abs() % (2 * math.pi / 5)
    fold = torch.minimum(fold, 2 * math.pi / 5 - fold)
    inner, outer = 0.46 * r, 1.1 * r
    ex = inner * math.cos(math.pi / 5) - outer
    ey = inner * math.sin(math.pi / 5)
    star = (ey * (radius * fold.cos() - outer) - ex * radius * fold.sin()) / (ex * ex + ey * ey).sqrt()
    ring = (radius - 0.75 * r).abs() - 0.25 * r
    arm, reach = 0.34 * r, 1.05 * r
    cross = torch.minimum(
        torch.maximum(x.abs() - arm, y.abs() - reach), torch.maximum(x.abs() - reach, y.abs() - arm)
    )
    return torch.stack([circle, square, triangle, star, ring, cross])


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=generator)


def _background(scenes: list[Scene], grid_x: Tensor, grid_y: Tensor, generator: torch.Generator) -> Tensor:
    """(N,3,H,W) in 0..1: every pattern mixes the base colour and its shade."""
    n = len(scenes)
    angle = torch.randint(4, (n, 1, 1), generator=generator) * (math.pi / 4)
    along = (grid_x - SIDE / 2) * angle.cos() + (grid_y - SIDE / 2) * angle.sin()
    phase = _uniform(n, 0, 16, generator).view(n, 1, 1)

    def wave(distance: Tensor) -> Tensor:  # square wave of period 16 px with one-pixel edges
        return ((8 - ((distance + phase) % 16 - 8).abs() * 2) / 2 + 0.5).clamp(0, 1)

    column, row = wave(grid_x), wave(grid_y)
    mixes = torch.stack(
        [
            torch.zeros(n, SIDE, SIDE),
            wave(along),
            column * row + (1 - column) * (1 - row),
            (along / (SIDE * 1.2) + 0.5).clamp(0, 1),
        ]
    )
    mix = mixes[[PATTERNS.index(s.pattern) for s in scenes], torch.arange(n)].unsqueeze(1)
    jitter = _uniform(n * 3, -0.03, 0.03, generator).view(n, 3, 1, 1)
    base = torch.tensor([COLOURS[s.colour] for s in scenes]).view(n, 3, 1, 1)
    second = torch.tensor([shade(s.colour) for s in scenes]).view(n, 3, 1, 1)
    return base * (1 - mix) + second * mix + jitter


def _centres(scenes: list[Scene], generator: torch.Generator) -> Tensor:
    """(N,2 things,2 axes): free for one thing, on the two sides of the axis that the relation names."""
    n = len(scenes)
    free = _uniform(n * 4, -11, 11, generator).view(n, 2, 2)
    tight = _uniform(n * 2, -1.5, 1.5, generator).view(n, 2)
    centres = SIDE / 2 + free
    for i, scene in enumerate(scenes):
        if scene.relation:
            axis = 0 if scene.relation in ("left of", "right of") else 1
            first = -15.5 if scene.relation in ("left of", "above") else 15.5
            centres[i, :, axis] = SIDE / 2 + torch.tensor([first, -first]) + tight[i]
    return centres


def render(scenes: list[Scene], generator: torch.Generator) -> Tensor:
    """Pictures (N,3,64,64) in -1..1, antialiased over one pixel."""
    n = len(scenes)
    grid_y, grid_x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    image = _background(scenes, grid_x.expand(n, -1, -1), grid_y.expand(n, -1, -1), generator)
    centres = _centres(scenes, generator)
    for k in range(2):
        things = [s.things[min(k, len(s.things) - 1)] for s in scenes]
        present = torch.tensor([k < len(s.things) for s in scenes]).view(n, 1, 1, 1)
        big = torch.tensor([t.size == "big" for t in things])
        radius = torch.where(big, _uniform(n, 12.0, 13.5, generator), _uniform(n, 6.5, 8.0, generator))
        turn = _uniform(n, -0.25, 0.25, generator).view(n, 1, 1)
        dx, dy = grid_x - centres[:, k, 0].view(n, 1, 1), grid_y - centres[:, k, 1].view(n, 1, 1)
        x, y = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
        distance = _signed_distances(x, y, radius.view(n, 1, 1))
        distance = distance[[SHAPES.index(t.shape) for t in things], torch.arange(n)].unsqueeze(1)
        cover = (0.5 - distance).clamp(0, 1) * present
        jitter = _uniform(n * 3, -0.03, 0.03, generator).view(n, 3, 1, 1)
        colour = torch.tensor([COLOURS[t.colour] for t in things]).view(n, 3, 1, 1) + jitter
        image = image * (1 - cover) + colour * cover
    return image.clamp(0, 1) * 2 - 1
