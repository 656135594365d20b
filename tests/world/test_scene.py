"""scene: where the camera sees a sprite, the wall and the counter."""

import math

import numpy as np
import pytest
import torch
from shots import BLACK, GREY, LIGHT, SKIN, SLEEVE, SPOT, centre, shoot, turned

from egodistill.world import props, scene
from egodistill.world.props import Hand
from egodistill.world.scene import Camera, Placed, Room

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
    for k, thing in enumerate(props.DRAWABLE):
        yaw = np.linspace(-0.9, 1.6, 7) + rng.normal(0, 0.1)
        rotation = np.stack([turned(y, 0.4, 0.2 * math.sin(3 * y)) for y in yaw])
        where = Hand(np.linspace(0, 1, 7), rng.uniform(-0.09, 0.09, (7, 2)), np.array([0, 0.5, 1, 1, 1, 0.5, 0]))
        scenes.append(
            (rotation, rng.normal(0, 0.03, (7, 3)), [(0.3, props.station(thing, k, where, SKIN, SLEEVE, 0.3))])
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
        parts = props.station("jug", 5, Hand(*(values[some] for values in where)), SKIN, SLEEVE, 0.3)
        return Camera(48, 32).render(rotation[some], position[some], [(0.0, parts)], room, LIGHT).astype(int)

    together = shots(slice(None))
    assert together.shape == (count, 32, 48, 3)
    one_by_one = np.concatenate([shots(slice(k, k + 1)) for k in range(count)])
    assert np.abs(together - one_by_one).max() <= 2
    np.testing.assert_array_equal(together, shots(slice(None)))  # the same bytes


def test_textures():
    rng = np.random.default_rng(0)
    wall, counter = scene.wall_texture(rng), scene.counter_texture(rng)
    assert wall.shape == (1, 3, 192, 2048) and counter.shape == (1, 3, 256, 256)
    assert torch.equal(wall[..., :1024], wall[..., 1024:])
    for texture in (wall, counter):
        assert 0 <= texture.min() and texture.max() <= 1 and texture.std() > 0.05
    assert not torch.equal(wall, scene.wall_texture(rng))
