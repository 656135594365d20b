"""A camera, a room and hands, for the tests of what the rendered world looks like."""

import numpy as np
import torch

from egodistill.world import props
from egodistill.world.props import Hand
from egodistill.world.scene import Room

LIGHT = (1.0, 1.0, 1.0)
BLACK = Room(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), -0.45)
GREY = Room(torch.full((1, 3, 4, 4), 0.25), torch.full((1, 3, 4, 4), 0.25), -0.45)
# A white spot with a soft rim, so that its centre is found to a fraction of a pixel.
RADIUS = torch.linspace(-1, 1, 48).square()
SPOT = (1 - RADIUS - RADIUS[:, None]).clamp(min=0).square().expand(1, 4, 48, 48)
SKIN, SLEEVE = (0.8, 0.6, 0.5), (0.2, 0.3, 0.5)
STROKES = ("pan", "bowl", "carrot", "dough")


def turned(yaw=0.0, pitch=0.0, roll=0.0):
    """The rotation of a camera that looks along a yaw, down by a pitch, and is tilted anticlockwise by a roll."""
    cy, cp, cr, sy, sp, sr = (f(a) for f in (np.cos, np.sin) for a in (yaw, pitch, roll))
    facing = np.array([[-sy, -cy, 0], [cy, -sy, 0], [0, 0, 1]])
    return facing @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])


def shoot(camera, parts, room=BLACK, *, yaw=0.0, pitch=0.0, roll=0.0, place=(0.0, 0.0, 0.0), azimuth=0.0):
    """One frame, as floats [height, width, 3]."""
    rotation, position = turned(yaw, pitch, roll)[None], np.array([place])
    return camera.render(rotation, position, [(azimuth, parts)], room, LIGHT)[0].astype(float)


def centre(frame):
    """Column, row and sum of what is brighter than the darkest pixel."""
    mask = frame[..., 1] - frame[..., 1].min()
    rows, columns = np.indices(mask.shape) + 0.5
    return np.array([(mask * columns).sum(), (mask * rows).sum(), 0.0]) / mask.sum() + [0, 0, mask.sum()]


def hand(progress=0.5, stroke=(0.0, 0.0), presence=1.0, count=1):
    return Hand(np.full(count, progress), np.tile(np.array(stroke, float), (count, 1)), np.full(count, presence))


def station(thing, appearance=3, pitch=0.3, **where):
    return props.station(thing, appearance, hand(**where), SKIN, SLEEVE, pitch)
