"""The look of the rendered world: where the camera sees a sprite, and that a thing shows its own state and no more."""

import math

import numpy as np
import pytest
import torch

from egodistill import scene
from egodistill.scene import Camera, Hand, Placed, Room

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
    return scene.station(thing, appearance, hand(**where), SKIN, SLEEVE, pitch)


# --- Camera


def test_near_things_shift_more_than_far_ones():
    camera, shift = Camera(96, 64), 0.1
    assert 2 * math.degrees(math.atan(48 / camera.focal)) == pytest.approx(54)
    for depth in (0.6, 0.95):
        part = Placed(SPOT, depth, 0.05, 0.02, (0.08, 0.08))
        still, moved, lifted, nearer = (
            centre(shoot(camera, [part], place=place))
            for place in ((0, 0, 0), (0, shift, 0), (0, 0, shift), (shift, 0, 0))
        )
        step = camera.focal * shift / depth
        np.testing.assert_allclose((moved - still)[:2], [step, 0], atol=0.05)
        np.testing.assert_allclose((lifted - still)[:2], [0, step], atol=0.05)
        assert nearer[2] / still[2] == pytest.approx((depth / (depth - shift)) ** 2, rel=0.05)


def test_sprites_are_where_a_pinhole_camera_sees_them():
    rng = np.random.default_rng(0)
    camera = Camera(120, 90, math.radians(70))
    for _ in range(20):
        azimuth, depth = rng.uniform(-3, 3), rng.uniform(0.6, 0.9)
        left, up = rng.uniform(-0.1, 0.1, 2)
        yaw, pitch, roll = azimuth + rng.uniform(-0.2, 0.2), *rng.uniform(-0.3, 0.3, 2)
        place = rng.uniform(-0.08, 0.08, 3)
        cos, sin = math.cos(azimuth), math.sin(azimuth)
        point = np.array([depth * cos - left * sin, depth * sin + left * cos, up])
        aside, back, above = turned(yaw, pitch, roll).T @ (point - place)
        expected = 60 + camera.focal * aside / back, 45 + camera.focal * above / back
        part = Placed(SPOT, depth, left, up, (0.05, 0.05))
        frame = shoot(camera, [part], yaw=yaw, pitch=pitch, roll=roll, place=place, azimuth=azimuth)
        np.testing.assert_allclose(centre(frame)[:2], expected, atol=0.1)


def test_head_tilted_to_the_left_tilts_the_picture_to_the_right():
    parts = [Placed(SPOT, 0.7, 0.0, 0.15, (0.05, 0.05))]
    column, row, _ = centre(shoot(Camera(96, 96), parts, roll=0.3))
    assert math.atan2(column - 48, 48 - row) == pytest.approx(0.3, abs=0.01)


def test_sprite_turns_anticlockwise_and_has_its_size():
    bar = torch.ones(1, 4, 40, 8)
    bar[:, :, 20:] = 0  # its upper half
    camera = Camera(96, 96)
    column, row, _ = centre(shoot(camera, [Placed(bar, 0.7, 0.0, 0.0, (0.01, 0.2), 0.5)]))
    assert math.atan2(48 - column, 48 - row) == pytest.approx(0.5, abs=0.03)
    area = (shoot(camera, [Placed(torch.ones(1, 4, 40, 40), 0.7, 0.0, 0.0, (0.1, 0.05))])[..., 0] / 255).sum()
    assert area == pytest.approx(0.2 * 0.1 * (scene.SPRITE_EDGE * camera.focal / 0.7) ** 2, rel=0.03)


def test_wall_stands_still_while_the_head_turns_all_around():
    """Wherever a chunk of pictures begins: the wall's texture is unrolled around its middle."""
    camera, room = Camera(48, 48), Room(scene.wall_texture(np.random.default_rng(0)), BLACK.counter, -9)
    rotation = np.stack([turned(math.radians(yaw)) for yaw in range(-400, 401, 20)])

    def look(rotation):
        return camera.render(rotation, np.zeros((len(rotation), 3)), [], room, LIGHT).astype(int)

    one_by_one = np.concatenate([look(rotation[k : k + 1]) for k in range(len(rotation))])
    for size in (2, 3):
        chunks = [look(rotation[k : k + size]) for k in range(0, len(rotation), size)]
        assert np.abs(np.concatenate(chunks) - one_by_one).max() <= 2  # rounding of float32
    assert np.abs(one_by_one[0] - one_by_one[18]).max() <= 2  # a full turn
    assert np.abs(one_by_one[0] - one_by_one[9]).mean() > 10


def test_counter_is_a_disc_below_the_eyes():
    room = Room(BLACK.wall, torch.ones(1, 3, 4, 4), -0.45)
    camera = Camera(96, 96)
    white = shoot(camera, [], room, pitch=0.3)[:, 48, 0] > 128
    edge = 48 + camera.focal * math.tan(math.atan2(0.45, math.sqrt(1.1)) - 0.3)
    assert abs(np.argmax(white) - edge) <= 1 and white[int(edge) + 2 :].all()
    # From nearby, its far edge is lower in the picture.
    assert np.argmax(shoot(camera, [], room, pitch=0.3, place=(0.3, 0, 0))[:, 48, 0] > 128) > edge + 5


def test_later_sprites_cover_earlier_ones_by_their_alpha():
    def plain(red, green, alpha):
        return Placed(
            alpha * torch.tensor([red, green, 0, 1.0]).view(1, 4, 1, 1).expand(1, 4, 8, 8), 0.7, 0, 0, (0.1, 0.1)
        )

    camera, red, green, half = Camera(32, 32), plain(1, 0, 1.0), plain(0, 1, 1.0), plain(0, 1, 0.5)
    for parts, expected in (
        ([red, green], (0, 255, 0)),
        ([green, red], (255, 0, 0)),
        ([red, half], (128, 128, 0)),
        ([red, green._replace(opacity=0.25)], (191, 64, 0)),
        ([red, green._replace(opacity=0.0)], (255, 0, 0)),
    ):
        np.testing.assert_allclose(shoot(camera, parts)[16, 16], expected, atol=1)
    frame = camera.render(turned()[None], np.zeros((1, 3)), [(0.0, [red, half])], BLACK, (0.5, 1.5, 1.0))
    np.testing.assert_allclose(frame[0, 16, 16], (64, 191, 0), atol=1)


def test_only_pixels_without_sprite_are_left_out(monkeypatch):
    """Projection.window() saves time and changes no picture."""
    rng, scenes = np.random.default_rng(0), []
    for k, thing in enumerate(scene.THINGS):
        yaw = np.linspace(-0.9, 1.6, 7) + rng.normal(0, 0.1)
        rotation = np.stack([turned(y, 0.4, 0.2 * math.sin(3 * y)) for y in yaw])
        where = Hand(np.linspace(0, 1, 7), rng.uniform(-0.09, 0.09, (7, 2)), np.array([0, 0.5, 1, 1, 1, 0.5, 0]))
        scenes.append(
            (rotation, rng.normal(0, 0.03, (7, 3)), [(0.3, scene.station(thing, k, where, SKIN, SLEEVE, 0.3))])
        )
    for _ in range(20):  # Squares that fill their picture, standing on a tip, from all sides.
        left, up = rng.normal(0, 0.1, (2, 2))
        part = Placed(torch.ones(1, 4, 8, 8), 0.7, left, up, (0.06, 0.06), math.pi / 4)
        rotation = np.stack([turned(*rng.uniform(-0.15, 0.15, 3)) for _ in range(2)])
        scenes.append((rotation, rng.uniform(-0.15, 0.15, (2, 3)), [(0.0, [part])]))

    def pictures():
        return np.concatenate([Camera(48, 48).render(*one, GREY, LIGHT) for one in scenes])

    fast, everywhere = pictures(), (slice(0, 48), slice(0, 48))
    assert (fast != 64).any((1, 2, 3)).mean() > 0.6
    monkeypatch.setattr(scene.Projection, "window", lambda *_: everywhere)
    # Whole matrices multiply in another order, and a rim may round to the next grey.
    assert np.abs(fast.astype(int) - pictures()).max() <= 1


def test_sprite_behind_the_camera_is_not_seen():
    parts = [Placed(torch.ones(1, 4, 8, 8), 0.7, 0.0, 0.0, (0.3, 0.3))]
    for yaw in (1.5, 2.0, math.pi, -2.0):
        assert not shoot(Camera(32, 32), parts, yaw=yaw).any()
    assert shoot(Camera(32, 32), parts, yaw=0.6).any()  # in the corner of the eye


def test_frames_do_not_depend_on_how_many_are_rendered_together():
    rng, count = np.random.default_rng(1), 2 * scene.BLOCK + 3
    rotation = np.stack([turned(*rng.normal((0, 0.3, 0), 0.1)) for _ in range(count)])
    position = rng.normal(0, 0.02, (count, 3))
    where = Hand(rng.random(count), np.zeros((count, 2)), np.ones(count))
    room = Room(scene.wall_texture(rng), scene.counter_texture(rng), -0.45)

    def shots(some):
        parts = scene.station("jug", 5, Hand(*(values[some] for values in where)), SKIN, SLEEVE, 0.3)
        return Camera(48, 32).render(rotation[some], position[some], [(0.0, parts)], room, LIGHT).astype(int)

    together = shots(slice(None))
    assert together.shape == (count, 32, 48, 3)
    one_by_one = np.concatenate([shots(slice(k, k + 1)) for k in range(count)])
    assert np.abs(together - one_by_one).max() <= 2
    np.testing.assert_array_equal(together, shots(slice(None)))  # the same bytes


# --- Things


def test_twelve_things():
    names = "cupboard plate tap knife pan bowl carrot dough jug bin tray panel"
    assert scene.THINGS == tuple(names.split())
    with pytest.raises(KeyError, match="spoon"):
        station("spoon")


def look(thing, appearance=3, *, head=0.3, **where):
    return shoot(Camera(96, 96), station(thing, appearance, **where), GREY, pitch=head)


def numbers(part):
    return part.left, part.up, *part.half, part.angle, part.opacity


@pytest.mark.parametrize("thing", scene.THINGS)
def test_appearance_decides_the_look_and_nothing_else(thing):
    first = look(thing, 11)
    np.random.default_rng(0).random(), torch.rand(3), look("tap", 4)  # what was drawn before does not matter
    np.testing.assert_array_equal(first, look(thing, 11))
    others = [look(thing, appearance) for appearance in range(20, 26)]
    assert min(np.abs(first - other).mean() for other in others) > 3
    # Backwards in time, it is the same film backwards: the verb of a pair does not show.
    where = Hand(np.linspace(0, 1, 9), np.linspace((-0.09, 0.0), (0.05, 0.09), 9), np.linspace(0.6, 1, 9))
    back = Hand(*(values[::-1] for values in where))
    for one, two in zip(*(scene.station(thing, 7, w, SKIN, SLEEVE, 0.3) for w in (where, back)), strict=True):
        assert torch.equal(one.image, two.image) and one.depth == two.depth
        for a, b in zip(numbers(one), numbers(two), strict=True):
            np.testing.assert_array_equal(np.broadcast_to(a, 9), np.broadcast_to(b, 9)[::-1])


@pytest.mark.parametrize("thing", scene.THINGS)
def test_hand_hides_what_is_behind_it_and_leaves(thing):
    def shots(appearance, presence, head=0.3):
        """The same moment with a dark and a light hand."""
        where = hand(presence=presence)
        hands = (((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
        parts = [scene.station(thing, appearance, where, skin, sleeve, 0.3) for skin, sleeve in hands]
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


def test_knob_and_jug_turn():
    def angle(thing, which, progress):
        return float(np.atleast_1d(station(thing, 3, progress=progress)[which].angle)[0])

    assert math.degrees(angle("tap", -3, 1.0) - angle("tap", -3, 0.0)) == pytest.approx(130)
    tilts = [math.degrees(angle("jug", -3, progress)) for progress in (0.0, 0.1, 0.25, 0.6, 0.9, 1.0)]
    np.testing.assert_allclose(np.array(tilts)[[0, 2, 3, 4, 5]], [0, 78, 78, 78, 0], atol=1e-6)
    assert 10 < tilts[1] < 70


def test_jug_pours_into_the_glass_between_a_quarter_and_nine_tenths():
    where = Hand(np.array([0.0, 0.2, 0.3, 0.85, 0.95]), np.zeros((5, 2)), np.ones(5))
    liquid, stream, glass, *_ = scene.station("jug", 4, where, SKIN, SLEEVE, 0.3)[-6:]
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
        _, back, scrap, front, *_ = scene.station("bin", appearance, where, SKIN, SLEEVE, 0.3)[-6:]
        assert np.hypot(np.diff(scrap.left), np.diff(scrap.up)).max() < 0.006
        assert scrap.up[progress > 0.5].max() > back.up + 0.05  # over the rim
        assert abs(scrap.left[-1] - front.left) < 0.02 and scrap.up[-1] + 0.03 < front.up + front.half[1]


def test_scraper_leaves_a_trail_from_where_it_began():
    where = Hand(np.array([0.0, 0.5, 1.0]), np.zeros((3, 2)), np.ones(3))
    _, trail, tool, *_ = scene.station("tray", 4, where, SKIN, SLEEVE, 0.3)[-5:]
    np.testing.assert_allclose(trail.left - trail.half[0], (trail.left - trail.half[0])[0], atol=1e-3)
    np.testing.assert_allclose(np.diff(trail.left + trail.half[0]), np.diff(tool.left), atol=2e-3)


def test_a_third_of_the_stations_has_clutter():
    extra = [len(station("plate", appearance)) - 4 for appearance in range(300)]
    assert set(extra) == {0, 1, 2} and 80 < np.count_nonzero(extra) < 120


def test_sprites_have_colours_below_their_alpha_and_clear_rims():
    for thing in scene.THINGS:
        for part in station(thing, 2):
            colour, alpha = part.image[:, :3], part.image[:, 3:]
            assert part.image.dtype == torch.float32 and alpha.max() <= 1
            assert (colour <= alpha).all() and (colour >= 0).all()
            assert alpha.max() > 0.3


def test_textures():
    rng = np.random.default_rng(0)
    wall, counter = scene.wall_texture(rng), scene.counter_texture(rng)
    assert wall.shape == (1, 3, 192, 2048) and counter.shape == (1, 3, 256, 256)
    assert torch.equal(wall[..., :1024], wall[..., 1024:])
    for texture in (wall, counter):
        assert 0 <= texture.min() and texture.max() <= 1 and texture.std() > 0.05
    assert not torch.equal(wall, scene.wall_texture(rng))
