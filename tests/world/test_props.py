"""props: a thing shows its own state and no more."""

import math

import numpy as np
import pytest
import torch
from shots import GREY, SKIN, SLEEVE, STROKES, centre, hand, shoot, station

from egodistill.world import props
from egodistill.world.props import Hand
from egodistill.world.scene import Camera

# --- Things


def test_twelve_things():
    names = "cupboard plate tap knife pan bowl carrot dough jug bin tray panel"
    assert props.DRAWABLE == tuple(names.split())
    with pytest.raises(KeyError, match="spoon"):
        station("spoon")


def look(thing, appearance=3, *, head=0.3, **where):
    return shoot(Camera(96, 96), station(thing, appearance, **where), GREY, pitch=head)


def numbers(part):
    return part.left, part.up, *part.half, part.angle, part.opacity


@pytest.mark.parametrize("thing", props.DRAWABLE)
def test_appearance_decides_the_look_and_nothing_else(thing):
    first = look(thing, 11)
    np.random.default_rng(0).random(), torch.rand(3), look("tap", 4)  # what was drawn before does not matter
    np.testing.assert_array_equal(first, look(thing, 11))
    others = [look(thing, appearance) for appearance in range(20, 26)]
    assert min(np.abs(first - other).mean() for other in others) > 3
    # Backwards in time, it is the same film backwards: the verb of a pair does not show.
    where = Hand(np.linspace(0, 1, 9), np.linspace((-0.09, 0.0), (0.05, 0.09), 9), np.linspace(0.6, 1, 9))
    back = Hand(*(values[::-1] for values in where))
    for one, two in zip(*(props.station(thing, 7, w, SKIN, SLEEVE, 0.3) for w in (where, back)), strict=True):
        assert torch.equal(one.image, two.image) and one.depth == two.depth
        for a, b in zip(numbers(one), numbers(two), strict=True):
            np.testing.assert_array_equal(np.broadcast_to(a, 9), np.broadcast_to(b, 9)[::-1])


@pytest.mark.parametrize("thing", props.DRAWABLE)
def test_hand_hides_what_is_behind_it_and_leaves(thing):
    def shots(appearance, presence, head=0.3):
        """The same moment with a dark and a light hand."""
        where = hand(presence=presence)
        hands = (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
        parts = [props.station(thing, appearance, where, skin, sleeve, 0.3) for skin, sleeve in hands]
        return [shoot(Camera(96, 96), some, GREY, pitch=head) for some in parts]

    for appearance in range(4):
        dark, light = shots(appearance, 1.0)
        skin = (light - dark).max(-1) > 180  # Nothing shows through.
        assert 50 < skin.sum() < 400 and (dark[skin] < 76).all()
        rows, columns = np.nonzero(skin)
        assert skin[round(rows.mean()), round(columns.mean())]
        for head in (0.0, 0.3, 0.7):
            dark, light = shots(appearance, 0.0, head)
            np.testing.assert_array_equal(dark, light)
            assert (dark != 64).any() or head == 0.7  # the thing stays
        # Between, the hand is on its way down.
        assert np.mean(np.nonzero(np.subtract(*shots(appearance, 0.8)[::-1]).max(-1) > 180)[0]) > rows.mean() + 10


def movement(thing, before, after, only=None):
    """How far (left, up, in pixels) the moving sprites go between two states; ``only`` picks one of them."""
    ends = []
    for where in (before, after):
        states = (station(thing, **state) for state in (where, before, after))
        moving = [
            part
            for part, one, two in zip(*states, strict=True)
            if not all(np.array_equal(a, b) for a, b in zip(numbers(one), numbers(two), strict=True))
        ]
        assert moving
        white = [part._replace(image=part.image[:, 3:].expand(-1, 4, -1, -1)) for part in moving]
        column, row, _ = centre(shoot(Camera(96, 96), white if only is None else [white[only]], pitch=0.2))
        ends.append((-column, -row))
    return np.subtract(ends[1], ends[0])


@pytest.mark.parametrize("thing", STROKES)
def test_stroke_moves_hand_and_tool_left_and_up(thing):
    metre = Camera(96, 96).focal / 0.72
    for only in (-1,) if thing == "dough" else (-1, 0):  # the hand and its tool
        left, up = movement(thing, {"stroke": (-0.03, 0.0)}, {"stroke": (0.03, 0.0)}, only)
        assert left == pytest.approx(0.06 * metre, rel=0.2) and abs(up) < 1
        left, up = movement(thing, {"stroke": (0.0, -0.02)}, {"stroke": (0.0, 0.02)}, only)
        assert abs(left) < 1 and up == pytest.approx(0.04 * metre, rel=0.2)
    # Progress does not matter to them.
    np.testing.assert_array_equal(look(thing, progress=0.1), look(thing, progress=0.9))


@pytest.mark.parametrize(
    ("thing", "begin", "end", "only", "left", "up"),
    [
        ("cupboard", 0, 1, None, 1, 0),  # the door
        ("plate", 0, 1, 0, -1, -1),  # the plate
        ("tap", 0, 1, -1, 1, 0),  # the hand goes round with the knob
        ("knife", 0, 1, 0, 1, 0),  # the knife
        ("jug", 0, 0.5, -1, 1, 1),  # the hand lifts and tilts the jug
        ("bin", 0, 0.45, -1, 1, 1),  # the hand swings up
        ("bin", 0.5, 1, 0, 1, -1),  # the scrap falls
        ("tray", 0, 1, 1, 1, 0),  # the scraper
        ("panel", 0, 0.5, -1, 1, 1),  # the finger goes to a button ...
        ("panel", 0.5, 1, -1, -1, -1),  # ... and back
    ],
)
def test_progress_moves_a_thing_along_its_path(thing, begin, end, only, left, up):
    moved = movement(thing, {"progress": begin}, {"progress": end}, only)
    for found, expected in zip(moved, (left, up), strict=True):
        assert found * expected > 6 if expected else abs(found) < 6
    half = movement(thing, {"progress": begin}, {"progress": (begin + end) / 2}, only)
    assert 0 < np.dot(half, moved) / np.dot(moved, moved) < 1.3


def test_the_door_of_the_cupboard_is_level_with_what_it_hides():
    cavity, door = station("cupboard", 3)[:2]
    assert cavity.up == door.up != 0 and cavity.angle == door.angle and cavity.depth > door.depth


def test_knob_and_jug_turn():
    def angle(thing, which, progress):
        return float(np.atleast_1d(station(thing, 3, progress=progress)[which].angle)[0])

    assert math.degrees(angle("tap", -3, 1.0) - angle("tap", -3, 0.0)) == pytest.approx(130)
    tilts = [math.degrees(angle("jug", -3, progress)) for progress in (0.0, 0.1, 0.25, 0.6, 0.9, 1.0)]
    np.testing.assert_allclose(np.array(tilts)[[0, 2, 3, 4, 5]], [0, 78, 78, 78, 0], atol=1e-6)
    assert 10 < tilts[1] < 70


def test_jug_pours_into_the_glass_between_a_quarter_and_nine_tenths():
    where = Hand(np.array([0.0, 0.2, 0.3, 0.85, 0.95]), np.zeros((5, 2)), np.ones(5))
    liquid, stream, glass, *_ = props.station("jug", 4, where, SKIN, SLEEVE, 0.3)[-6:]
    np.testing.assert_array_equal(stream.opacity, [0, 0, 1, 1, 0])
    bottom = glass.up - glass.half[1]
    np.testing.assert_allclose((stream.up - stream.half[1])[2:4], bottom)
    assert (stream.up + stream.half[1] > glass.up + glass.half[1])[2:4].all()  # from above its rim
    assert (np.abs(stream.left - glass.left) < glass.half[0])[2:4].all()
    level = liquid.up + liquid.half[1] - bottom
    assert (np.diff(level) >= 0).all() and level[1] < 0.1 * glass.half[1] < level[3] < 2 * glass.half[1]


def test_scrap_flies_without_a_jump_and_ends_inside_the_bin():
    progress = np.linspace(0, 1, 401)
    where = Hand(progress, np.zeros((401, 2)), np.ones(401))
    for appearance in range(5):
        _, back, scrap, front, *_ = props.station("bin", appearance, where, SKIN, SLEEVE, 0.3)[-6:]
        assert np.hypot(np.diff(scrap.left), np.diff(scrap.up)).max() < 0.006
        assert scrap.up[progress > 0.5].max() > back.up + 0.05  # over the rim
        assert abs(scrap.left[-1] - front.left) < 0.02 and scrap.up[-1] + 0.03 < front.up + front.half[1]


def test_scraper_leaves_a_trail_from_where_it_began():
    where = Hand(np.array([0.0, 0.5, 1.0]), np.zeros((3, 2)), np.ones(3))
    _, trail, tool, *_ = props.station("tray", 4, where, SKIN, SLEEVE, 0.3)[-5:]
    np.testing.assert_allclose(trail.left - trail.half[0], (trail.left - trail.half[0])[0], atol=1e-3)
    np.testing.assert_allclose(np.diff(trail.left + trail.half[0]), np.diff(tool.left), atol=2e-3)


def test_a_third_of_the_stations_has_clutter():
    extra = [len(station("plate", appearance)) - 4 for appearance in range(300)]
    assert set(extra) == {0, 1, 2} and 80 < np.count_nonzero(extra) < 120


def test_sprites_have_colours_below_their_alpha_and_clear_rims():
    for thing in props.DRAWABLE:
        for part in station(thing, 2):
            colour, alpha = part.image[:, :3], part.image[:, 3:]
            assert part.image.dtype == torch.float32 and alpha.max() <= 1
            assert (colour <= alpha).all() and (colour >= 0).all()
            assert alpha.max() > 0.3
