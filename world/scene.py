"""The camera of the rendered world: a room, sprites in vertical planes, and a pinhole that looks at them.

`synthetic` decides what happens and when, `props` what an object and a hand look like; this module makes the pictures.
Axes are those of the world: x forward, y left and z up for a wearer who looks along azimuth 0, from the rest position
of the eyes.

    import numpy as np
    from egodistill.world import props, scene

    rng = np.random.default_rng(0)
    room = scene.Room(scene.wall_texture(rng), scene.counter_texture(rng), counter_height=-0.45)
    hand = props.Hand(progress=np.linspace(0, 1, 5), stroke=np.zeros((5, 2)), presence=np.ones(5))
    parts = props.station("plate", 7, hand, skin=(0.8, 0.6, 0.5), sleeve=(0.2, 0.3, 0.5), pitch=0.3)
    facing = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])           # columns: the camera's left, back and up
    pictures = scene.Camera(96, 96).render(np.stack([facing] * 5), np.zeros((5, 3)), [(0.0, parts)], room, (1, 1, 1))

A picture is of one moment, so it shows no speed; `synthetic` averages several of them for a shutter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

__all__ = ["Camera", "Placed", "Room", "counter_texture", "wall_texture"]

SPRITE_EDGE = 1.06  # size of a sprite's picture relative to its shape, so that its rim is transparent
BLOCK = 16  # frames rendered at a time, so that intermediate results stay in the processor's cache


# ---------------------------------------------------------------------------------------------------------------
# Surroundings


class Room(NamedTuple):
    """Surroundings of one recording: a cylindrical wall and a counter, a disc below the eyes."""

    wall: torch.Tensor  # from `wall_texture()`
    counter: torch.Tensor  # from `counter_texture()`
    counter_height: float  # m, relative to the rest position of the eyes; negative is below
    radius: float = 2.2  # of the wall in m


def wall_texture(rng: np.random.Generator) -> torch.Tensor:
    """Return a texture for the wall, float32 [1, 3, 192, 2048]: 1024 columns, twice, so that sampling never wraps."""
    texture = noise_texture(rng, 192, 1024, (24, 64, 160), 0.12) + torch.from_numpy(
        rng.uniform(-0.15, 0.15, (3, 1, 1)).astype(np.float32)
    )
    for _ in range(40):  # tiles and posters
        w, h = int(rng.integers(12, 60)), int(rng.integers(12, 60))
        x, y = int(rng.integers(0, 1024 - w)), int(rng.integers(0, 192 - h))
        colour = torch.from_numpy(rng.uniform(0.1, 0.9, (3, 1, 1)).astype(np.float32))
        texture[:, y : y + h, x : x + w] = 0.7 * colour + 0.3 * texture[:, y : y + h, x : x + w]
    return torch.cat([texture, texture], 2)[None].clamp(0, 1)


def counter_texture(rng: np.random.Generator) -> torch.Tensor:
    """Return a texture for the counter, float32 [1, 3, 256, 256]."""
    return noise_texture(rng, 256, 256, (12, 32, 80), 0.12)[None].clamp(0, 1)


def noise_texture(
    rng: np.random.Generator, height: int, width: int, octaves: tuple[int, ...], contrast: float
) -> torch.Tensor:
    """Return smooth random colours, float32 [3, height, width], around 0.5."""
    total = torch.zeros(3, height, width)
    for cells in octaves:
        grid = rng.normal(size=(1, 3, max(2, cells * height // width), cells)).astype(np.float32)
        layer = interpolate(torch.from_numpy(grid), (height, width), mode="bicubic", align_corners=False)[0]
        total += layer * contrast / math.sqrt(len(octaves))
    grey = total.mean(0, keepdim=True)
    return 0.5 + 0.75 * grey + 0.25 * total


# ---------------------------------------------------------------------------------------------------------------
# Sprites


class Placed(NamedTuple):
    """Sprite in a vertical plane, in the axes of its station.

    All fields but `image` and `depth` are one number, or one per frame.
    """

    image: torch.Tensor  # RGBA, float32 [1, 4, h, w], its colours multiplied by its alpha
    depth: float  # distance of the plane from the rest position of the eyes in m
    left: np.ndarray | float  # centre of the sprite, to the left (m)
    up: np.ndarray | float  # centre of the sprite, upwards (m)
    half: tuple[np.ndarray | float, np.ndarray | float]  # half width and half height (m)
    angle: np.ndarray | float = 0.0  # rotation, anticlockwise as seen (rad)
    opacity: np.ndarray | float = 1.0  # 0 to 1


# ---------------------------------------------------------------------------------------------------------------
# Camera


class Camera:
    """Pinhole camera; width and height of pictures in pixels, the horizontal field of view in rad.

    >>> from egodistill.world import scene
    >>> camera = scene.Camera(96, 64)
    >>> print(round(camera.focal, 1))
    94.2
    """

    def __init__(self, width: int, height: int, field_of_view: float = math.radians(54)) -> None:
        self.width, self.height = width, height
        self.focal = width / 2 / math.tan(field_of_view / 2)  # pixels
        u = (torch.arange(width) + 0.5 - width / 2) / self.focal
        v = (torch.arange(height) + 0.5 - height / 2) / self.focal
        v, u = torch.meshgrid(v, u, indexing="ij")
        self.rays = torch.stack([-u, -torch.ones_like(u), -v])  # left, back, up: [3, height, width]

    def render(
        self,
        rotation: np.ndarray,
        position: np.ndarray,
        parts: Sequence[tuple[float, Sequence[Placed]]],
        room: Room,
        light: Sequence[float],
    ) -> np.ndarray:
        """Return n frames, uint8 [n, height, width, 3].

        Rotations are [n, 3, 3], their columns the camera's left, back and up in the world, positions [n, 3] in metres.
        `parts` are stations: (azimuth in rad, sprites from back to front); `light` has factors of red, green and blue.

        >>> import numpy as np, torch
        >>> from egodistill.world import scene
        >>> facing = np.array([[[0, -1, 0], [1, 0, 0], [0, 0, 1.0]]])
        >>> square = scene.Placed(torch.ones(1, 4, 8, 8), depth=0.7, left=0.0, up=0.0, half=(0.1, 0.1))
        >>> room = scene.Room(torch.zeros(1, 3, 8, 16), torch.zeros(1, 3, 8, 8), counter_height=-0.45)
        >>> frames = scene.Camera(32, 32).render(facing, np.zeros((1, 3)), [(0.0, [square])], room, (1, 1, 1))
        >>> print(frames.shape, frames[0, 16, 16], frames[0, 0, 0])
        (1, 32, 32, 3) [255 255 255] [0 0 0]
        """
        frames = np.empty((len(rotation), self.height, self.width, 3), np.uint8)
        projections = [
            Projection(self, rotation, position, azimuth, part) for azimuth, placed in parts for part in placed
        ]
        scale = 255 * torch.tensor(light, dtype=torch.float32)[:, None, None]
        turns, places = (torch.from_numpy(np.asarray(value, dtype=np.float32)) for value in (rotation, position))
        for start in range(0, len(frames), BLOCK):
            block = slice(start, min(start + BLOCK, len(frames)))
            picture = self.surroundings(turns[block], places[block], room)
            for projection in projections:
                projection.draw(picture, self.rays, block)
            picture = picture.mul_(scale).add_(0.5).clamp_(0, 255).to(torch.uint8)
            frames[block] = picture.permute(0, 2, 3, 1).numpy()
        return frames

    def surroundings(self, rotation: torch.Tensor, position: torch.Tensor, room: Room) -> torch.Tensor:
        """Return pictures of the room alone, float32 [n, 3, height, width].

        Rotations are float32 [n, 3, 3], as for `render()`, positions float32 [n, 3] in metres.
        """
        count = len(rotation)
        rays = (rotation @ self.rays.view(3, -1)).view(count, 3, self.height, self.width)
        dx, dy, dz = rays.unbind(1)
        px, py, pz = position[:, :, None, None].unbind(1)
        # The counter is a disc below the eyes, nearer than the wall.
        reach = (room.counter_height - pz) / dz.clamp(max=-1e-3)
        cx, cy = torch.addcmul(px, reach, dx), torch.addcmul(py, reach, dy)
        on = (dz < -1e-3) & (cx * cx + cy * cy < 1.1)
        picture = torch.empty(count, 3, self.height, self.width)
        if rows := span(~on):
            # Distance along the ray to the cylinder, from a quadratic whose positive root is ahead.
            dx, dy, dz = (d[:, rows] for d in (dx, dy, dz))
            a, b = dx * dx + dy * dy, px * dx + py * dy
            reach = (torch.sqrt(b * b - a * (px * px + py * py - room.radius**2)) - b) / a
            azimuth = torch.atan2(torch.addcmul(py, reach, dy), torch.addcmul(px, reach, dx))
            ahead = -rotation[:, :2, 1].double().sum(0)
            middle = math.atan2(ahead[1], ahead[0])
            turn = torch.remainder(azimuth - (middle - math.pi), 2 * math.pi) + middle
            grid = torch.stack([turn / (2 * math.pi) - 0.5, torch.addcmul(pz, reach, dz) / -1.3], 1)
            picture[:, :, rows] = sample(room.wall, grid, "border")
        if rows := span(on):
            grid = torch.stack([cx[:, rows], cy[:, rows]], 1).clamp_(-2, 2).div_(1.1)
            top = sample(room.counter, grid, "border")
            picture[:, :, rows] = torch.where(on[:, None, rows], top, picture[:, :, rows])
        return picture


class Projection:
    """One sprite as a camera sees it at n times: a homography from rays to the sprite's picture, and a window."""

    def __init__(
        self, camera: Camera, rotation: np.ndarray, position: np.ndarray, azimuth: float, part: Placed
    ) -> None:
        count = len(rotation)
        cos, sin = math.cos(azimuth), math.sin(azimuth)
        axes = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])  # ahead, left, up of the station
        turned = axes @ np.asarray(rotation, dtype=np.float64)
        ahead, left, up = (np.asarray(position, dtype=np.float64) @ axes.T).T
        values = (part.left, part.up, *part.half, part.angle, part.opacity)
        values = [np.broadcast_to(np.asarray(value, dtype=np.float64), (count,)) for value in values]
        part_left, part_up, half_width, half_height, angle, opacity = values
        half = np.stack([half_width, half_height]) * SPRITE_EDGE
        far, left, up = part.depth - ahead, left - part_left, up - part_up
        c, s = np.cos(angle), np.sin(angle)
        # As seen, right is -left; the picture's rows run downwards.
        across = np.stack([up * s - left * c, -c * far, s * far], -1) / half[0][:, None]
        down = np.stack([-left * s - up * c, -s * far, -c * far], -1) / half[1][:, None]
        matrix = np.stack([across, down, np.broadcast_to([1.0, 0.0, 0.0], (count, 3))], 1) @ turned
        self.image = part.image
        self.matrix = torch.from_numpy(matrix.astype(np.float32))
        self.opacity = torch.from_numpy(opacity.astype(np.float32))
        self.faint = opacity != 1
        # Corners, half a texel outside the picture, where interpolation ends.
        margin = 1 + 1 / np.array(part.image.shape[:1:-1])
        x, y = half[0] * margin[0], half[1] * margin[1]
        corner = np.stack(
            [
                np.stack([far, -left + i * x * c + j * y * s, -up - i * x * s + j * y * c], -1)
                for i, j in ((-1, -1), (-1, 1), (1, -1), (1, 1))
            ]
        )
        x, back, z = np.einsum("nji,cnj->icn", turned, corner)
        edges = np.array([camera.width, camera.height])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = camera.width / 2 + camera.focal * x / back, camera.height / 2 + camera.focal * z / back
        low = np.floor(np.stack([u.min(0), v.min(0)]) - 0.5)
        high = np.ceil(np.stack([u.max(0), v.max(0)]) + 0.5)
        behind = (back > -0.05).any(0)  # Partly behind the camera, where the projection of corners is undefined.
        low, high = np.where(behind, 0, low), np.where(behind, edges, high)
        self.low, self.high = np.clip(low, 0, edges).astype(int), np.clip(high, 0, edges).astype(int)
        self.shown = (opacity > 0) & (self.high > self.low).all(0)

    def window(self, block: slice) -> tuple[slice, slice] | None:
        """Return the rows and columns that contain the sprite in all frames of a block, or None if it is out of sight.

        In a frame, the picture changes nowhere else.
        """
        shown = self.shown[block]
        if not shown.any():
            return None
        low, high = self.low[:, block][:, shown].min(1), self.high[:, block][:, shown].max(1)
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    def draw(self, picture: torch.Tensor, rays: torch.Tensor, block: slice) -> None:
        """Draw the sprite over the frames of a block, float32 [n, 3, height, width]."""
        window = self.window(block)
        if window is None:
            return
        rows, cols = window
        seen = rays[:, rows, cols]
        shape = seen.shape[1:]
        across, down, ahead = (self.matrix[block] @ seen.reshape(3, -1)).view(-1, 3, *shape).unbind(1)
        grid = torch.stack([across, down], 1)
        corners = ahead[:, :: max(1, shape[0] - 1), :: max(1, shape[1] - 1)]  # `ahead` is linear: least at a corner.
        if corners.min() <= 0.05:
            grid.div_(ahead.clamp(min=0.05)[:, None])
            grid[:, 0].masked_fill_(ahead <= 0.05, 9.0)
        else:
            grid.div_(ahead[:, None])
        rgba = sample(self.image, grid, "zeros")
        if self.faint[block].any():
            rgba.mul_(self.opacity[block, None, None, None])
        under = picture[:, :, rows, cols]
        under.mul_(1 - rgba[:, 3:]).add_(rgba[:, :3])


def sample(image: torch.Tensor, grid: torch.Tensor, padding: str) -> torch.Tensor:
    """Return colours [n, channels, h, w] of an image [1, channels, ...] at `grid` [n, 2, h, w]."""
    # Coordinates stay in separate planes: it is the faster layout for `grid_sample`.
    return grid_sample(
        image.expand(len(grid), -1, -1, -1), grid.permute(0, 2, 3, 1), padding_mode=padding, align_corners=False
    )


def span(mask: torch.Tensor) -> slice | None:
    """Return the rows from the first to the last in which a mask [n, height, width] is true, or None."""
    rows = mask.any(2).any(0).nonzero()
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else None
