"""The look of the rendered world: kitchen objects and a hand, drawn on flat sprites.

    import numpy as np
    from egodistill.world import props

    hand = props.Hand(progress=np.linspace(0, 1, 5), stroke=np.zeros((5, 2)), presence=np.ones(5))
    parts = props.station("plate", 7, hand, skin=(0.8, 0.6, 0.5), sleeve=(0.2, 0.3, 0.5), pitch=0.3)

A station is one object with the hand at it, as sprites for `scene.Camera` in vertical planes, 0.6 to 1 m away.
Its picture depends on its appearance (a seed) and on where the hand is, never on the verb.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from .scene import SPRITE_EDGE, Placed

__all__ = ["DRAWABLE", "Hand", "station"]

Colour = tuple[float, float, float]  # red, green, blue, 0 to 1

TEXELS = 180  # of a sprite's picture per metre; a frame of 96 pixels has about 125 pixels per metre at a station


class Sketch:
    """Picture of a sprite while it is drawn.

    Coordinates are `x` to the right and `y` down, -1 to 1 within the sprite's half width and half height. It is drawn
    at twice its resolution; `image` averages, so that edges are smooth.
    """

    def __init__(self, half_width: float, half_height: float) -> None:
        self.half = (half_width, half_height)
        cols, rows = (2 * max(8, round(2 * SPRITE_EDGE * half * TEXELS)) for half in self.half)
        self.x = (SPRITE_EDGE * ((np.arange(cols, dtype=np.float32) + 0.5) * 2 / cols - 1))[None]
        self.y = (SPRITE_EDGE * ((np.arange(rows, dtype=np.float32) + 0.5) * 2 / rows - 1))[:, None]
        self.rgba = np.zeros((4, rows, cols), np.float32)

    def fill(self, mask: np.ndarray, colour: Colour, opacity: float = 1.0, window: tuple = (slice(None),) * 2) -> None:
        """Paint over the picture where `mask` is true; it covers the rows and columns of `window`."""
        for channel, value in zip(self.rgba, (*colour, 1.0), strict=True):
            channel = channel[window]
            paint = value if opacity == 1 else channel * np.float32(1 - opacity) + np.float32(opacity * value)
            np.copyto(channel, paint, where=mask, casting="same_kind")

    def window(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """Return the rows and columns whose centres lie strictly inside a rectangle."""
        rows = np.searchsorted(self.y[:, 0], top, "right"), np.searchsorted(self.y[:, 0], bottom)
        cols = np.searchsorted(self.x[0], left, "right"), np.searchsorted(self.x[0], right)
        return slice(*rows), slice(*cols)

    def box(self, left: float, right: float, top: float, bottom: float, colour: Colour, opacity: float = 1.0) -> None:
        """Paint a rectangle."""
        self.fill(True, colour, opacity, self.window(left, right, top, bottom))

    def oval(self, x: float, y: float, across: float, down: float, colour: Colour, opacity: float = 1.0) -> None:
        """Paint an ellipse around (x, y) with these half axes."""
        rows, cols = window = self.window(x - across, x + across, y - down, y + down)
        mask = ((self.x[:, cols] - x) / across) ** 2 + ((self.y[rows] - y) / down) ** 2 < 1
        self.fill(mask, colour, opacity, window)

    def image(self) -> torch.Tensor:
        """Return the picture, lit from the upper left, float32 [1, 4, h, w]."""
        tall = self.rgba[:, ::2] + self.rgba[:, 1::2]
        rgba = (tall[..., ::2] + tall[..., 1::2]) / 4
        rgba[:3] *= 1.0 - 0.12 * (self.x[:, ::2] + self.y[::2])
        np.minimum(rgba[:3], rgba[3:], out=rgba[:3])
        return torch.from_numpy(rgba)[None]

    def placed(self, depth: float, left, up, angle=0.0, *, half=None, opacity=1.0) -> Placed:
        """Return the picture as a sprite."""
        return Placed(self.image(), depth, left, up, half or self.half, angle, opacity)


WHITE, CREAM, STEEL, DARK = (0.9, 0.9, 0.88), (0.9, 0.82, 0.64), (0.62, 0.64, 0.67), (0.13, 0.13, 0.14)
RED, ORANGE, YELLOW, GREEN = (0.7, 0.2, 0.18), (0.92, 0.5, 0.14), (0.86, 0.74, 0.28), (0.25, 0.5, 0.3)
BLUE, PURPLE, COPPER, BRASS = (0.2, 0.36, 0.66), (0.45, 0.2, 0.36), (0.7, 0.4, 0.26), (0.75, 0.6, 0.3)
OAK, PINE, WALNUT, BIRCH = (0.58, 0.39, 0.22), (0.74, 0.56, 0.36), (0.38, 0.25, 0.16), (0.83, 0.7, 0.5)
WOODS = (OAK, PINE, WALNUT, BIRCH)


class Stage:
    """Place and appearance of one station: what the drawing functions share."""

    def __init__(self, appearance: int, number: int, hand: Hand, skin: Colour, sleeve: Colour, pitch: float) -> None:
        self.rng = rng = np.random.default_rng([appearance, number])
        self.progress, self.stroke, self.presence = (np.asarray(value, dtype=np.float64) for value in hand)
        self.drop, self.shown = 0.9 * (1.0 - self.presence), self.presence > 0  # of the hand (m)
        self.skin, self.sleeve = skin, sleeve
        self.depth = rng.uniform(0.68, 0.82)
        self.left, self.up = rng.normal(0.0, 0.035), -self.depth * math.tan(pitch) + rng.normal(0.0, 0.025)
        self.scale, self.tilt = rng.uniform(0.85, 1.15), rng.normal(0.0, 0.06)

    def scaled(self, *metres: float) -> list[float]:
        """Return lengths scaled to the size of the object."""
        return [self.scale * value for value in metres]

    def tone(self, *colours: Colour) -> Colour:
        """Return one of the colours, varied."""
        chosen = np.array(colours[self.rng.integers(len(colours))])
        return tuple(np.clip(chosen * self.rng.uniform(0.85, 1.1) + self.rng.normal(0.0, 0.035, 3), 0.02, 0.98))

    def point(self, right: float, up: float, angle: float) -> tuple[float, float]:
        """Return where a point of a sprite (right and up of its centre, m) goes, left and up, when turned."""
        cos, sin = np.cos(angle), np.sin(angle)
        return up * sin - right * cos, right * sin + up * cos

    def hand(self, kind: str, left, up, angle=0.2, *, arm: float = 0.25, size=1.0) -> list[Placed]:
        """Return forearm and hand at a place (m, station axes). The forearm leans by `arm` rad, from the right."""
        sketch = Sketch(0.062, 0.068)
        x, y = sketch.x, sketch.y
        fold = shade(self.skin, 0.8)
        if kind == "point":
            sketch.box(-0.3, 0.02, -1, 0.2, self.skin)
            sketch.fill((x / 0.75) ** 2 + ((y - 0.35) / 0.6) ** 2 < 1, self.skin)
            sketch.box(0.0, 0.6, 0.0, 0.08, fold)
        else:
            top, gap = (-0.98, 0.45) if kind == "flat" else (-0.75, 0.38)
            comb = np.abs(np.mod((x + 0.72) * 2.8, 1.0) - 0.5) < gap
            sketch.fill((y < 0.1) & (y > top + 0.15 * np.abs(x)) & comb & (np.abs(x) < 0.72), self.skin)
            sketch.oval(0, 0.25, 0.74, 0.66, self.skin)
            sketch.oval(-0.76, 0.1, 0.22, 0.5, self.skin)
            if kind == "grip":
                sketch.box(-0.6, 0.6, -0.2, -0.12, fold)
        sleeve = Sketch(0.042, 0.2)
        sleeve.fill(np.abs(sleeve.x) < 0.88 + 0.1 * sleeve.y, self.sleeve)
        sleeve.box(-0.9, 0.9, -1, -0.88, shade(self.sleeve, 0.75))
        near, up = self.depth - 0.06, up - self.drop
        reach = 0.25 * size
        return [
            sleeve.placed(near, left - reach * math.sin(arm), up - reach * math.cos(arm), arm, opacity=self.shown),
            sketch.placed(near - 0.01, left, up, angle, half=(0.062 * size, 0.068 * size), opacity=self.shown),
        ]


def shade(colour: Colour, factor: float) -> Colour:
    """Return a darker or lighter colour."""
    red, green, blue = (min(1.0, c * factor) for c in colour)
    return red, green, blue


# ---------------------------------------------------------------------------------------------------------------
# Objects. Each function returns a station's sprites, from back to front.


def cupboard(stage: Stage) -> list[Placed]:
    """Sliding door before a cavity with jars."""
    rng, w = stage.rng, 0.18 * stage.scale
    h = w * rng.uniform(0.95, 1.25)
    main, other = stage.tone(*WOODS, WHITE, GREEN, BLUE), stage.tone(STEEL, DARK, BRASS)
    cavity = Sketch(1.15 * w, h)
    cavity.box(-1, 1, -1, 1, shade(main, 0.6))
    cavity.box(-0.94, 0.94, -0.94, 0.94, stage.tone(DARK))
    cavity.box(-0.94, 0.94, -0.03, 0.05, shade(main, 0.7))
    for y in (-0.03, 0.94):
        for x in rng.uniform(-0.75, 0.75, 3):
            cavity.box(x - 0.12, x + 0.12, y - rng.uniform(0.3, 0.6), y, tuple(rng.uniform(0.2, 0.8, 3)))
    door = Sketch(w, h)
    door.box(-1, 1, -1, 1, shade(main, 0.75))
    door.box(-0.97, 0.97, -0.97, 0.97, main)
    door.box(-0.7, 0.7, -0.74, 0.74, shade(main, 0.82))
    door.box(-0.66, 0.66, -0.7, 0.7, shade(main, 1.06))
    door.box(0.76, 0.9, -0.3, 0.3, other)
    slide = stage.left + 1.7 * w * (stage.progress - 0.5) + 0.35 * w
    return [
        cavity.placed(stage.depth + 0.12, stage.left - 0.35 * w, stage.up, stage.tilt),
        door.placed(stage.depth + 0.06, slide, stage.up, stage.tilt),
        *stage.hand("grip", slide - 0.7 * w, stage.up - 0.12 * h, 0.15),
    ]


def plate(stage: Stage) -> list[Placed]:
    """Plate that is taken from a shelf, down to the right."""
    r, w, h = stage.scaled(0.125, 0.17, 0.12)
    main, rim = stage.tone(WHITE, WHITE, CREAM, BLUE, STEEL), stage.tone(BLUE, RED, GREEN, BRASS, DARK)
    board = stage.tone(*WOODS, WHITE, STEEL)
    shelf = Sketch(w, h)
    shelf.box(-1, 1, 0.62, 0.85, board)
    for x in (-0.75, 0.75):
        shelf.box(x - 0.08, x + 0.08, 0.85, 1, shade(board, 0.7))
    for k in range(4):  # A pile of plates, seen from the side.
        shelf.box(-0.6, 0.6, 0.48 - 0.14 * k, 0.58 - 0.14 * k, shade(main, 0.95 - 0.06 * k))
    disc = Sketch(r, r)
    disc.oval(0, 0, 1, 1, shade(main, 0.85))
    disc.oval(0, 0, 0.96, 0.96, main)
    disc.oval(0, 0, 0.86, 0.86, rim)
    disc.oval(0, 0, 0.76, 0.76, main)
    disc.oval(0, 0, 0.58, 0.58, shade(main, 0.88))
    disc.oval(0, 0, 0.55, 0.55, shade(main, 1.04))
    q = stage.progress - 0.5
    left, up = stage.left - 0.32 * stage.scale * q, stage.up - 0.22 * stage.scale * q
    return [
        shelf.placed(stage.depth + 0.12, stage.left + 0.16 * stage.scale, stage.up + 0.03 * stage.scale, stage.tilt),
        disc.placed(stage.depth, left, up),
        *stage.hand("grip", left - 0.075 * stage.scale, up - 0.085 * stage.scale, 0.35),
    ]


def tap(stage: Stage) -> list[Placed]:
    """Tap over a basin, with a knob that turns clockwise to the left half of its circle and back."""
    w, h, r, basin_w, basin_h = stage.scaled(0.17, 0.22, 0.095, 0.25, 0.09)
    metal, knob = stage.tone(STEEL, STEEL, WHITE, BRASS, DARK), stage.tone(STEEL, WHITE, RED, BLUE, BRASS)
    tub = stage.tone(STEEL, WHITE, WHITE, CREAM)
    basin = Sketch(basin_w, basin_h)
    basin.box(-1, 1, -1, -0.55, tub)
    basin.fill((basin.y > -0.6) & (np.abs(basin.x) < 0.95 - 0.1 * basin.y), shade(tub, 0.75))
    pipe = Sketch(w, h)
    x, y = pipe.x, pipe.y
    arc = np.hypot(x - 0.32, (y + 0.45) * h / w)
    pipe.fill((np.abs(arc - 0.5) < 0.14) & (y < -0.45), metal)
    pipe.box(-0.32, -0.04, -0.46, 1, metal)
    pipe.box(0.68, 0.96, -0.46, -0.1, metal)
    pipe.box(0.62, 1, -0.16, -0.04, shade(metal, 0.75))
    pipe.box(-0.5, 0.14, 0.85, 1, shade(metal, 0.8))
    wheel = Sketch(r, r)
    turned = np.hypot(wheel.x, wheel.y)
    wheel.fill(turned < 0.62, shade(knob, 0.75))
    wheel.fill((np.minimum(np.abs(wheel.x), np.abs(wheel.y)) < 0.17) & (turned < 1), shade(knob, 0.95))
    wheel.fill((np.abs(wheel.x) < 0.2) & (wheel.y < 0) & (turned < 1), stage.tone(RED, BLUE, DARK))
    wheel.fill(turned < 0.26, shade(knob, 1.1))
    turn = math.radians(130) * (stage.progress - 0.5)
    left, up = stage.left + 0.18 * w, stage.up - 0.05 * h
    grip = stage.point(0.0, 0.9 * r, turn)
    return [
        basin.placed(stage.depth + 0.14, stage.left, stage.up - 1.25 * h, stage.tilt),
        pipe.placed(stage.depth + 0.12, stage.left, stage.up, stage.tilt),
        wheel.placed(stage.depth + 0.02, left, up, turn),
        *stage.hand("grip", left + grip[0], up + grip[1] - 0.065, turn),
    ]


def knife(stage: Stage) -> list[Placed]:
    """Knife that goes left into a block with the handles of others."""
    w, h, long, high = stage.scaled(0.11, 0.19, 0.16, 0.034)
    main, handle = stage.tone(*WOODS, DARK, STEEL), stage.tone(DARK, DARK, WALNUT, RED)
    block = Sketch(w, h)
    for k in range(3):
        x = -0.62 + 0.6 * k
        block.box(x - 0.16, x + 0.16, -1 + 0.12 * k, -0.3, handle)
        block.box(x - 0.08, x + 0.0, -0.9 + 0.12 * k, -0.8 + 0.12 * k, stage.tone(STEEL))
    block.fill((block.y > -0.5 + 0.12 * block.x) & (np.abs(block.x) < 1) & (block.y < 1), main)
    block.fill((block.x > 0.75) & (block.x < 1) & (block.y > -0.5 + 0.12 * block.x) & (block.y < 1), shade(main, 0.7))
    block.box(-1, 1, 0.9, 1, shade(main, 0.6))
    blade = knife_sketch(stage, long, high, handle)
    slide = stage.left + stage.scale * (0.22 * stage.progress - 0.2)
    return [
        blade.placed(stage.depth, slide, stage.up - 0.02 * stage.scale),
        block.placed(stage.depth - 0.02, stage.left + 0.19 * stage.scale, stage.up, stage.tilt),
        *stage.hand("grip", slide - 0.11 * stage.scale, stage.up - 0.05 * stage.scale, 0.4, arm=0.45),
    ]


def knife_sketch(stage: Stage, long: float, high: float, handle: Colour) -> Sketch:
    """Return a knife, its point to the left and its handle to the right."""
    sketch, steel = Sketch(long, high), stage.tone((0.8, 0.8, 0.84))
    x, y = sketch.x, sketch.y
    sketch.fill((x > -1) & (x < 0.25) & (y > -0.75) & (y < 0.85 - 1.6 * np.clip(-0.55 - x, 0, None) / 0.45), steel)
    sketch.fill((x > -1) & (x < 0.25) & (y > -0.75) & (y < -0.35), shade(steel, 0.8))
    sketch.box(0.22, 1, -0.8, 0.2, handle)
    return sketch


def pan(stage: Stage) -> list[Placed]:
    """Pan seen from above, with a long handle, and a cloth under the hand."""
    rng = stage.rng
    r, long, thick = stage.scaled(0.155, 0.1, 0.021)
    outside, inside = stage.tone(DARK, DARK, STEEL, RED, COPPER), stage.tone(DARK, DARK, STEEL, (0.3, 0.3, 0.32))
    disc = Sketch(r, r)
    disc.oval(0, 0, 1, 1, outside)
    disc.oval(0, 0, 0.9, 0.9, shade(outside, 1.3))
    disc.oval(0, 0, 0.86, 0.86, shade(inside, 0.8))
    disc.oval(0.02, 0.03, 0.72, 0.72, inside)
    for x, y in rng.uniform(-0.45, 0.45, (3, 2)):  # Left-overs.
        disc.oval(x, y, 0.12, 0.08, stage.tone(WALNUT, BRASS))
    handle = Sketch(long, thick)
    handle.box(-1, 1, -0.85, 0.85, stage.tone(DARK, DARK, STEEL, WALNUT))
    handle.oval(0.75, 0, 0.12, 0.4, shade(STEEL, 0.6))
    side = rng.choice([0.0, math.pi]) + rng.uniform(-0.6, 0.6)
    out = stage.point(r + 0.9 * long, 0.0, side)
    cloth = Sketch(0.075, 0.055)
    colour = stage.tone(YELLOW, BLUE, GREEN, RED, WHITE)
    wave = 0.1 * np.sin(5 * cloth.x + rng.uniform(0, 6))
    cloth.fill((np.abs(cloth.x) < 0.95) & (np.abs(cloth.y + wave) < 0.85), colour)
    cloth.fill((np.abs(cloth.x) < 0.95) & (np.abs(cloth.y + wave - 0.45) < 0.12), shade(colour, 0.75))
    left, up = stage.left + stage.stroke[:, 0], stage.up + stage.stroke[:, 1]
    return [
        handle.placed(stage.depth + 0.02, stage.left + out[0], stage.up + out[1], side),
        disc.placed(stage.depth + 0.01, stage.left, stage.up),
        cloth.placed(stage.depth - 0.03, left + 0.01, up + 0.035, rng.uniform(-0.5, 0.5)),
        *stage.hand("grip", left, up - 0.01, 0.25, arm=0.35),
    ]


def bowl(stage: Stage) -> list[Placed]:
    """Bowl seen from the side, and a spoon in the hand above it."""
    rng = stage.rng
    w, h, mouth = stage.scaled(0.17, 0.1, 0.05)
    main = stage.tone(WHITE, STEEL, BLUE, YELLOW, GREEN, RED, PINE)
    inside, stick = stage.tone(CREAM, BRASS, WALNUT, RED, WHITE), stage.tone(*WOODS, STEEL, DARK)
    back = Sketch(w, mouth)
    back.oval(0, 0, 1, 1, shade(main, 0.65))
    back.oval(0, 0.2, 0.9, 0.72, inside)
    front = Sketch(w, h)
    x, y = front.x, front.y
    lip = -1 + mouth / h * np.sqrt(np.clip(1 - x * x, 0, 1))
    front.fill((y > lip) & (y < 0.9) & ((x / 1.0) ** 2 + ((y + 1) / 1.95) ** 2 < 1), main)
    front.fill((y > lip) & (y < lip + 0.14) & (np.abs(x) < 1), shade(main, 1.15))
    front.fill((np.abs(x) < 0.45) & (y > 0.72) & (y < 1), shade(main, 0.7))
    spoon = Sketch(0.018, 0.13)
    spoon.fill((np.abs(spoon.x) < 0.5) & (np.abs(spoon.y) < 1), stick)
    spoon.oval(0, 0.75, 1, 0.25, stick)
    lean = rng.uniform(-0.5, -0.15)
    left, up = stage.left + stage.stroke[:, 0], stage.up + 0.06 + stage.stroke[:, 1]
    grip = stage.point(0.0, 0.1, lean)
    return [
        back.placed(stage.depth + 0.03, stage.left, stage.up + 0.02),
        spoon.placed(stage.depth + 0.01, left, up, lean),
        front.placed(stage.depth - 0.01, stage.left, stage.up + 0.02 - h),
        *stage.hand("grip", left + grip[0], up + grip[1], 0.9, arm=1.0),
    ]


def carrot(stage: Stage) -> list[Placed]:
    """Carrot on a board, and a knife across it."""
    rng = stage.rng
    w, h, long, thick = stage.scaled(0.22, 0.13, 0.15, 0.038)
    board_colour, root = stage.tone(*WOODS, WHITE, GREEN), stage.tone(ORANGE, ORANGE, ORANGE, YELLOW, PURPLE)
    board = Sketch(w, h)
    board.box(-1, 1, -1, 1, shade(board_colour, 0.75))
    board.box(-0.98, 0.98, -0.97, 0.9, board_colour)
    board.oval(-0.86, -0.75, 0.06, 0.1, shade(board_colour, 0.4))
    for x in rng.uniform(0.35, 0.85, 4):  # Slices.
        y = rng.uniform(0.3, 0.75)
        board.oval(x, y, 0.09, 0.14, shade(root, 0.8))
        board.oval(x, y, 0.07, 0.11, root)
    stem = Sketch(long, thick)
    x, y = stem.x, stem.y
    taper = 0.95 - 0.75 * (np.clip(x, -0.55, 1) + 0.55) / 1.55
    stem.fill((np.abs(y) < taper) & (x > -0.6) & (x < 1), root)
    for k in range(5):
        stem.fill((np.abs(y - 0.2) < 0.5 * taper) & (np.abs(x + 0.4 - 0.28 * k) < 0.015), shade(root, 0.7))
    leaf = stage.tone(GREEN, (0.4, 0.6, 0.25))
    for slope in (-0.9, 0.0, 0.9):
        stem.fill((x < -0.58) & (x > -1) & (np.abs(y - slope * (-0.58 - x) / 0.42) < 0.24), leaf)
    turn = rng.choice([0.0, math.pi]) + rng.uniform(-0.25, 0.25)
    blade = knife_sketch(stage, 0.13, 0.028, stage.tone(DARK, DARK, WALNUT, RED))
    lean = -rng.uniform(0.9, 1.4)
    left, up = stage.left + stage.stroke[:, 0], stage.up + 0.01 + stage.stroke[:, 1]
    grip = stage.point(0.09, 0.0, lean)
    return [
        board.placed(stage.depth + 0.03, stage.left, stage.up, stage.tilt),
        stem.placed(stage.depth + 0.01, stage.left, stage.up + 0.02, turn),
        blade.placed(stage.depth - 0.02, left, up, lean),
        *stage.hand("grip", left + grip[0], up + grip[1] - 0.02, 0.1),
    ]


def dough(stage: Stage) -> list[Placed]:
    """Lump of dough on a floured mat, and the flat hand on it."""
    rng = stage.rng
    w, h = stage.scaled(0.165, 0.115)
    main, mat = stage.tone(CREAM, CREAM, BIRCH, PINE, WHITE), stage.tone(*WOODS, STEEL, DARK, BLUE)
    floor = Sketch(1.4 * w, 1.35 * h)
    floor.oval(0, 0.05, 1, 0.95, mat)
    for x, y in rng.uniform(-0.6, 0.6, (14, 2)):
        floor.oval(x, y, 0.09, 0.07, (0.93, 0.92, 0.9), 0.6)
    lump = Sketch(w, h)
    angle, radius = np.arctan2(lump.y, lump.x), np.hypot(lump.x, lump.y)
    edge = 0.88 + sum(0.05 * np.sin(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5))
    lump.fill(radius < edge, shade(main, 0.8))
    lump.fill(np.hypot(lump.x + 0.05, lump.y + 0.08) < edge - 0.1, main)
    lump.oval(-0.25, -0.35, 0.3, 0.2, shade(main, 1.1))
    pin = Sketch(0.19, 0.026)
    wood = stage.tone(*WOODS)
    pin.box(-1, 1, -0.45, 0.45, shade(wood, 0.7))
    pin.box(-0.7, 0.7, -0.95, 0.95, wood)
    left, up = stage.left + stage.stroke[:, 0], stage.up + stage.stroke[:, 1]
    return [
        floor.placed(stage.depth + 0.03, stage.left, stage.up),
        pin.placed(stage.depth + 0.02, stage.left, stage.up + 1.15 * h, rng.uniform(-0.2, 0.2)),
        lump.placed(stage.depth + 0.01, stage.left, stage.up),
        *stage.hand("flat", left, up - 0.03, rng.uniform(0.2, 0.7), arm=0.4, size=1.1),
    ]


def jug(stage: Stage) -> list[Placed]:
    """Jug that is lifted and tilted over a glass; it pours between progress 0.25 and 0.9."""
    q, scale = stage.progress, stage.scale
    w, h, glass_w, glass_h = stage.scaled(0.105, 0.125, 0.045, 0.075)
    main = stage.tone(WHITE, BLUE, STEEL, RED, CREAM, (0.75, 0.85, 0.9))
    drink = stage.tone((0.7, 0.85, 0.95), WHITE, ORANGE, RED, WALNUT)
    body = Sketch(w, h)
    x, y = body.x, body.y
    loop = np.hypot((x - 0.5) / 0.5, (y + 0.1) / 0.58)
    body.fill((loop < 1) & (loop > 0.66), shade(main, 0.8))
    belly = 0.42 + 0.2 * np.cos(1.3 * (y - 0.35))
    body.fill((np.abs(x + 0.2) < belly) & (np.abs(y) < 0.97), main)
    body.fill((x > -1) & (x < -0.3) & (y > -0.97) & (y < -0.97 + 0.75 * (x + 1)), main)
    body.box(-0.7, 0.3, 0.35, 0.5, stage.tone(BLUE, WHITE, DARK))
    tilt = math.radians(78) * np.clip(np.minimum(q / 0.25, (1.0 - q) / 0.1), 0, 1) ** 0.8
    lift = np.sin(tilt)
    left, up = stage.left - 0.07 * scale + 0.03 * scale * lift, stage.up - 0.03 * scale + 0.14 * scale * lift
    tip = stage.point(-0.95 * w, 0.95 * h, tilt)
    glass_left, glass_up = stage.left + 0.12 * scale, stage.up - 0.1 * scale
    fill = np.clip((q - 0.25) / 0.65, 0.02, 1.0) * 0.8 * glass_h
    liquid, stream = Sketch(glass_w, glass_h), Sketch(0.009, 0.1)
    liquid.box(-0.88, 0.88, -1, 1, drink)
    stream.box(-1, 1, -1, 1, drink)
    glass = Sketch(glass_w, glass_h)
    glass.box(-1, 1, -1, 1, (0.85, 0.92, 0.95), 0.35)
    for left_edge in (-1, 0.86):
        glass.box(left_edge, left_edge + 0.14, -1, 1, (0.92, 0.96, 0.98), 0.6)
    glass.box(-0.86, 0.86, 0.9, 1, (0.92, 0.96, 0.98), 0.6)
    bottom = glass_up - glass_h
    fall = np.maximum((up + tip[1] - bottom) / 2, 1e-3)
    grip = stage.point(0.8 * w, 0.1 * h, tilt)
    return [
        liquid.placed(stage.depth + 0.02, glass_left, bottom + fill, half=(glass_w, fill)),
        stream.placed(
            stage.depth + 0.02, left + tip[0], bottom + fall, half=(0.009, fall), opacity=(q > 0.25) & (q < 0.9)
        ),
        glass.placed(stage.depth + 0.01, glass_left, glass_up),
        body.placed(stage.depth - 0.02, left, up, tilt),
        *stage.hand("grip", left + grip[0], up + grip[1], 0.5 + 0.5 * tilt, arm=0.6),
    ]


def bin_(stage: Stage) -> list[Placed]:
    """Bin, and a scrap that leaves the hand at progress 0.45 and falls into it."""
    q, scale, rng = stage.progress, stage.scale, stage.rng
    w, h, mouth = stage.scaled(0.14, 0.165, 0.04)
    main = stage.tone(DARK, STEEL, GREEN, WHITE, BLUE)
    left, up = stage.left + 0.07 * scale, stage.up - 0.07 * scale
    lid = Sketch(w, 0.09 * scale)
    lid.fill((lid.x**2 + ((lid.y - 1) / 2) ** 2 < 1) & (lid.y < 1), shade(main, 0.8))
    back = Sketch(w, mouth)
    back.oval(0, 0, 1, 1, shade(main, 0.9))
    back.oval(0, 0.06, 0.92, 0.86, shade(main, 0.25))
    front = Sketch(w, h)
    x, y = front.x, front.y
    lip = -1 + mouth / h * np.sqrt(np.clip(1 - x * x, 0, 1))
    side = 0.9 - 0.1 * y
    front.fill((y > lip) & (np.abs(x) < side) & (y < 0.85 + 0.15 * np.sqrt(np.clip(1 - x * x, 0, 1))), main)
    for k in range(-2, 3):  # Ribs.
        front.fill((y > lip + 0.3) & (y < 0.85) & (np.abs(x / side - 0.36 * k) < 0.045), shade(main, 0.72))
    front.fill((y > lip) & (y < lip + 0.16) & (np.abs(x) < 1), shade(main, 1.2))
    top = up + h
    scrap = Sketch(0.034, 0.03)
    angle, radius = np.arctan2(scrap.y, scrap.x), np.hypot(scrap.x, scrap.y)
    scrap.fill(radius < 0.82 + 0.16 * np.sin(5 * angle), stage.tone(WHITE, WHITE, CREAM, ORANGE, GREEN, BRASS))
    # The hand swings up from the right; then the scrap flies on a parabola that ends inside the bin.
    swing, flight = np.clip(q / 0.45, 0, 1), np.clip((q - 0.45) / 0.55, 0, 1)
    hand_left = stage.left + scale * (-0.26 + 0.12 * swing)
    hand_up = stage.up + scale * (-0.08 + 0.26 * swing) - 0.04 * flight
    start_left, start_up = stage.left - 0.09 * scale, stage.up + 0.25 * scale
    fly_left = start_left + (left - start_left) * flight
    fly_up = start_up + 0.25 * flight + (top - 0.09 * scale - start_up - 0.25) * flight**2
    held = q < 0.45
    scrap_left = np.where(held, hand_left + 0.05 * scale, fly_left)
    scrap_up = np.where(held, hand_up + 0.07 * scale - stage.drop, fly_up)
    return [
        lid.placed(stage.depth + 0.1, left, top + 0.1 * scale),
        back.placed(stage.depth + 0.06, left, top),
        scrap.placed(
            stage.depth + 0.04, scrap_left, scrap_up, 9.0 * flight + rng.uniform(0, 6), opacity=~held | stage.shown
        ),
        front.placed(stage.depth + 0.03, left, up),
        *stage.hand("flat", hand_left, hand_up, 0.6 - 0.8 * flight, arm=0.5),
    ]


def tray(stage: Stage) -> list[Placed]:
    """Dirty tray; a scraper goes over it from right to left and leaves a clean trail."""
    rng = stage.rng
    w, h = stage.scaled(0.23, 0.14)
    main, dirt = stage.tone(STEEL, STEEL, DARK, COPPER, WHITE), stage.tone(WALNUT, DARK, (0.3, 0.2, 0.12))
    base = Sketch(w, h)
    base.fill((np.abs(base.x) > 0.8) & (np.abs(base.x) < 1) & (np.abs(base.y) < 0.35), shade(main, 0.8))
    base.fill((np.abs(base.x) > 0.88) & (np.abs(base.x) < 0.95) & (np.abs(base.y) < 0.22), shade(main, 0.3))
    base.box(-0.86, 0.86, -1, 1, shade(main, 1.1))
    base.box(-0.81, 0.81, -0.92, 0.92, shade(main, 0.65))
    base.box(-0.77, 0.77, -0.84, 0.84, dirt)
    for _ in range(10):
        x, y = rng.uniform(-0.65, 0.65), rng.uniform(-0.7, 0.7)
        base.oval(x, y, rng.uniform(0.05, 0.12), rng.uniform(0.06, 0.14), shade(dirt, rng.uniform(0.6, 1.6)))
    start = stage.left - 0.7 * w
    left, up = start + 1.3 * w * stage.progress, stage.up + rng.uniform(-0.25, 0.15) * h
    broad = 0.38 * h
    trail = Sketch(0.5 * w, broad)
    trail.box(-1, 1, -1, 1, shade(main, 1.05))
    trail.box(-1, 1, -0.3, -0.24, dirt, 0.5)
    done = np.maximum((left - start) / 2, 1e-3)
    tool = Sketch(0.07, 1.1 * broad)
    tool.box(-1, -0.72, -1, 1, stage.tone(STEEL, DARK))
    tool.fill((tool.x > -0.75) & (tool.x < -0.2) & (np.abs(tool.y) < 0.55 - 0.9 * (tool.x + 0.75)), shade(STEEL, 1.2))
    tool.box(-0.4, 1, -0.24, 0.24, stage.tone(*WOODS, RED, DARK, YELLOW))
    return [
        base.placed(stage.depth + 0.03, stage.left, stage.up),
        trail.placed(stage.depth + 0.02, start + done, up, half=(done, broad)),
        tool.placed(stage.depth - 0.02, left - 0.06, up),
        *stage.hand("grip", left - 0.115, up - 0.015, 0.7, arm=0.6),
    ]


def panel(stage: Stage) -> list[Placed]:
    """Panel of an appliance with a display and buttons; a finger goes to one of them and back."""
    rng = stage.rng
    w, h = stage.scaled(0.16, 0.17)
    main = stage.tone(DARK, DARK, STEEL, WHITE)
    bright = sum(main) > 1.2
    button = stage.tone(DARK, STEEL, BLUE) if bright else stage.tone(WHITE, STEEL, CREAM)
    face = Sketch(w, h)
    face.box(-1, 1, -1, 1, shade(main, 0.7))
    face.box(-0.95, 0.95, -0.95, 0.95, main)
    face.box(-0.8, 0.8, -0.82, -0.38, (0.03, 0.05, 0.05))
    glow = stage.tone((0.3, 0.95, 0.5), (0.95, 0.3, 0.25), (0.4, 0.75, 0.98), (0.98, 0.75, 0.3))
    for k in range(4):  # Digits.
        face.box(-0.62 + 0.34 * k, -0.44 + 0.34 * k, -0.74, -0.46, glow)
        face.box(-0.57 + 0.34 * k, -0.49 + 0.34 * k, *((-0.7, -0.62) if rng.random() < 0.6 else (-0.7, -0.5)), DARK)
    columns, rows = int(rng.integers(3, 5)), 3
    spots = [
        (-0.8 + 1.6 * (col + 0.5) / columns, -0.2 + 1.05 * (row + 0.5) / rows)
        for row in range(rows)
        for col in range(columns)
    ]
    round_ = rng.random() < 0.5
    for x, y in spots:
        if round_:
            face.oval(x, y, 0.48 / columns, 0.13, button)
        else:
            face.box(x - 0.52 / columns, x + 0.52 / columns, y - 0.12, y + 0.12, button)
    x, y = spots[rng.integers(len(spots))]
    near = 0.5 - 0.5 * np.cos(2 * math.pi * stage.progress)
    # The finger's tip is 0.068 m above the centre of the hand and a little to the left.
    left, up = stage.left - x * w - 0.01 - 0.13 * (1 - near), stage.up - y * h - 0.06 - 0.11 * (1 - near)
    return [
        face.placed(stage.depth + 0.03, stage.left, stage.up, stage.tilt),
        *stage.hand("point", left, up, 0.15, arm=0.3, size=1.15 - 0.15 * near),
    ]


DRAW: dict[str, Callable[[Stage], list[Placed]]] = {
    "cupboard": cupboard,
    "plate": plate,
    "tap": tap,
    "knife": knife,
    "pan": pan,
    "bowl": bowl,
    "carrot": carrot,
    "dough": dough,
    "jug": jug,
    "bin": bin_,
    "tray": tray,
    "panel": panel,
}
DRAWABLE = tuple(DRAW)


class Hand(NamedTuple):
    """The position of the hand at n times."""

    progress: np.ndarray  # [n], along the path of an object that is moved once, 0 to 1
    stroke: np.ndarray  # [n, 2], left and up (m) of the working point of one worked on (pan, bowl, carrot, dough)
    presence: np.ndarray  # [n], 1 while the hand is at the object and 0 when it is out of sight below


def station(thing: str, appearance: int, hand: Hand, skin: Colour, sleeve: Colour, pitch: float) -> list[Placed]:
    """Return the sprites of one station, from back to front, while the hand is where `hand` says.

    The thing is one of `DRAWABLE`, or KeyError; `appearance` is the seed of its size, place, colours and of the clutter
    beside it; skin and sleeve are red, green, blue, 0 to 1; `pitch` is the angle below the horizon in rad.
    """
    draw = DRAW[thing]
    stage = Stage(appearance, DRAWABLE.index(thing), hand, skin, sleeve, pitch)
    drawn = draw(stage)
    return clutter(stage) + drawn


def clutter(stage: Stage) -> list[Placed]:
    """Return the sprites of one or two unimportant objects behind a third of the stations, [] for the others."""
    rng, found = stage.rng, []
    for _ in range(rng.integers(1, 3) if rng.random() < 1 / 3 else 0):
        sketch = Sketch(rng.uniform(0.025, 0.05), rng.uniform(0.03, 0.075))
        main, other = tuple(rng.uniform(0.1, 0.9, 3)), tuple(rng.uniform(0.1, 0.9, 3))
        kind = rng.integers(3)
        if kind == 0:  # a tin
            sketch.box(-1, 1, -1, 1, main)
            sketch.box(-1, 1, -0.4, 0.5, other)
        elif kind == 1:  # a bottle
            sketch.box(-0.3, 0.3, -1, 0, main)
            sketch.box(-0.8, 0.8, -0.3, 1, main)
            sketch.box(-0.35, 0.35, -1, -0.8, other)
        else:  # a fruit
            sketch.oval(0, 0, 1, 1, main)
        left = stage.left + rng.choice([-1, 1]) * rng.uniform(0.15, 0.34)
        found.append(sketch.placed(stage.depth + 0.15, left, stage.up + rng.uniform(-0.2, 0.15)))
    return found
