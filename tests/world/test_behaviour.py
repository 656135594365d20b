"""What wearers do: nothing but motion tells the verb, the head moves as it should, and the sensor reads that motion."""

import csv
import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from egodistill import CLIP_SECONDS, EgoDistillError
from egodistill.world import behaviour
from egodistill.world.behaviour import ACTIONS, GRAVITY, THINGS, TURN, VERBS, Act, HeadMotion, Stroke

GAPS = (0.4, 3.2)
PARTNERS = {
    verb: ACTIONS.index((thing, 1 - which))
    for verb, (thing, which) in enumerate(ACTIONS)
    if len(THINGS[thing].verbs) == 2
}
PAIRED, REVERSALS, CYCLES = list(PARTNERS), VERBS[:8], VERBS[8:16]


def draw(verbs, seed=1, coupling=1.0, wearer="P01"):
    rng = np.random.default_rng(seed)
    return behaviour.draw_acts(behaviour.draw_wearer(wearer, 0), verbs, GAPS, coupling, rng)


def one_act(thing=0, second=False, **changes):
    """An act of a typical wearer, ten seconds after the start, with the head following."""
    usual = {"centre": 10.0, "offset": 0.07, "duration": 1.1, "hesitation": 0.1, "lag": 0.05, "turn": (0.2, 0.1)}
    usual |= {"lean": (0.03, -0.02, 0.01), "azimuth": 0.6, "pitch": 0.3, "length": 1.2, "appearance": 7}
    stroke = one_stroke(2.5 if second else 1.1) if THINGS[thing].kind == "cyclic" else None
    return Act(thing, second, **usual | {"stroke": stroke} | changes)


def one_stroke(rate=2.5, **changes):
    usual = {"radius": 0.06, "flat": -0.5, "angle": 0.4, "phase": 1.0, "uneven": (0.3, 2.0)}
    return Stroke(rate, **usual | {"drift": ((0.2, 0.3, 1.0),), "pauses": ()} | changes)


def steady(*acts, mount=(0.0, 0.0, 0.0), **habits):
    """The motion of a head that neither sways, walks nor glances; the camera faces ahead unless told otherwise."""
    wearer = replace(behaviour.draw_wearer("P01", 0), mount=mount, **habits)
    motion = HeadMotion(wearer, list(acts), 1.0, np.random.default_rng(0))
    motion.amplitude[:] = 0
    motion.walks, motion.glances = [], []
    return motion


def axes(yaw, pitch, roll):
    """Camera axes (left, back, up) as columns, from where the camera looks and how it is tilted."""
    forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), -math.sin(pitch)])
    level = np.array([-math.sin(yaw), math.cos(yaw), 0])
    upright = np.cross(forward, level)
    left = math.cos(roll) * level - math.sin(roll) * upright  # a positive roll lowers the left side
    up = math.sin(roll) * level + math.cos(roll) * upright
    return np.stack([left, -forward, up], 1)


def distance(one, other):
    """The largest difference between two empirical distributions, relative to what chance exceeds once in 10,000."""
    one, other = np.sort(one), np.sort(other)
    every = np.concatenate([one, other])
    shares = (np.searchsorted(some, every, "right") / len(some) for some in (one, other))
    return np.abs(np.subtract(*shares)).max() / (2.23 * math.sqrt(1 / len(one) + 1 / len(other)))


# --- Things and verbs


def test_verbs_are_the_stated_shares_of_each_kind_and_lookalikes_cover_each_once():
    kinds = Counter(THINGS[thing].kind for thing, _ in ACTIONS)
    assert kinds == {"reversal": 8, "cyclic": 8, "single": 4} and len(set(VERBS)) == 20
    assert sorted(verb for pair in behaviour.LOOKALIKES for verb in pair) == sorted(VERBS)
    assert not any(PARTNERS.get(VERBS.index(a)) == VERBS.index(b) for a, b in behaviour.LOOKALIKES)
    assert sum(behaviour.EPIC_SHARES.values()) == pytest.approx(1)
    for kind in ("reversal", "cyclic"):
        assert sorted(thing.follow for thing in THINGS if thing.kind == kind) == [0, 0.5, 1, 1]


def test_classes_of_verbs_are_those_of_epic_kitchens(sample):
    with open(sample("epic-kitchens-100/EPIC_100_verb_classes.csv"), newline="", encoding="utf-8") as file:
        theirs = {int(row["id"]): row["key"] for row in csv.DictReader(file)}
    assert all(theirs[number] == verb for thing in THINGS for verb, number in thing.verbs)


def test_bounds_are_guesses_where_nothing_tells_the_verb(monkeypatch):
    assert behaviour.bounds() == pytest.approx(
        {"one frame": 0.6, "one frame and head motion": 0.85, "one frame and sound": 0.75}
    )
    half = behaviour.bounds(0.5)
    assert half["one frame and head motion"] == pytest.approx(0.6 + 0.25 / 2) and half["one frame"] == 0.6
    some = [replace(THINGS[0], follow=f, heard=h) for f, h in ((0.2, 0.9), (0.7, 0.3), (0.4, 0.0))]
    monkeypatch.setattr(behaviour, "THINGS", (*some, *THINGS[3:]))
    monkeypatch.setattr(behaviour, "ACTIONS", ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (4, 0)))
    found = behaviour.bounds(things=["cupboard"])  # all three look like one
    assert found["one frame and head motion"] == pytest.approx(((1 + 0.2) + (1 + 0.7) + (1 + 0.4)) / 6)
    assert found["one frame and sound"] == pytest.approx(((1 + 0.9) + (1 + 0.3) + 1) / 6)
    with pytest.raises(EgoDistillError, match=r"things must be some of cupboard, .*; got \['spoon'\]"):
        behaviour.bounds(things=["spoon"])


def test_wrong_verbs_of_a_small_world_are_in_it():
    """The lookalike of mix is pour, that of open is turn-on."""
    for things in (["bowl", "cupboard"], ["bowl", "jug"], ["jug", "cupboard"], ["bowl"]):
        verbs, rng = behaviour.verbs_of(things), np.random.default_rng(0)
        assert {VERBS[k] for k in verbs} == {verb for t in THINGS if t.look in things for verb, _ in t.verbs}
        for verb in verbs:
            found = Counter(behaviour.wrong_verb(verb, rng, verbs) for _ in range(400))
            assert found.keys() == set(verbs) - {verb}
            if verb in PARTNERS and len(verbs) > 2:
                assert abs(found[PARTNERS[verb]] / 400 - 0.5) < 0.1


@pytest.mark.parametrize("verb", ["open", "mix", "pour"])
def test_wrong_verbs_are_the_partner_a_lookalike_or_any_other(verb):
    rng, number = np.random.default_rng(0), VERBS.index(verb)
    found = Counter(behaviour.wrong_verb(number, rng) for _ in range(4000))
    partner, (alike,) = PARTNERS.get(number), [{a, b} - {verb} for a, b in behaviour.LOOKALIKES if verb in (a, b)]
    expected = {VERBS.index(*alike): 0.3 if partner is not None else 0.8} | ({partner: 0.5} if verb != "pour" else {})
    others = set(range(20)) - {number} - set(expected)
    expected |= dict.fromkeys(others, (1 - sum(expected.values())) / len(others))
    assert found.keys() == expected.keys()  # never the true one
    chi = sum((found[k] - 4000 * share) ** 2 / (4000 * share) for k, share in expected.items())
    assert chi < 42.3  # 18 degrees of freedom, p 0.001


# --- Nothing but the direction of time, or the rate, tells the verb


def test_all_but_the_direction_of_time_or_the_rate_is_drawn_before_the_verb():
    verbs = PAIRED * 6
    acts, others = draw(verbs), draw([PARTNERS[verb] for verb in verbs])
    for act, other in zip(acts, others, strict=True):
        assert other.second is not act.second
        if act.stroke is not None:
            fast, slow = (one.stroke.rate for one in ((other, act) if other.second else (act, other)))
            assert 0.6 <= slow <= 1.4 and 1.9 <= fast <= 3.3
            other = replace(other, stroke=replace(other.stroke, rate=act.stroke.rate))
        assert replace(other, second=act.second) == act


@pytest.mark.parametrize("thing", range(4))
def test_backward_verb_is_the_first_verb_in_the_mirror_of_time(thing):
    forward, backward = one_act(thing), one_act(thing, second=True)
    centre, apart = forward.centre + forward.offset, np.linspace(-1.3, 1.3, 53)
    there, back = centre + apart, centre - apart
    for lag in (0.0, 0.05):
        np.testing.assert_allclose(forward.progress(there, lag), backward.progress(back, lag), atol=1e-12)
    for name in ("presence", "head"):
        ones, others = getattr(forward, name)(there), getattr(backward, name)(back)
        change = 0 if name == "presence" else (others - ones)[:, :1]  # the head's is since before the act
        np.testing.assert_allclose(ones, others - change, atol=1e-12)
    one, other = steady(forward).state(there), steady(backward).state(back[::-1])[:, ::-1]
    np.testing.assert_allclose(one, other, atol=1e-12)
    done, presence = forward.progress(there), forward.presence(there)
    assert done[0] == pytest.approx(0, abs=1e-12) and done[-1] == pytest.approx(1) and (np.diff(done) > -1e-12).all()
    assert presence[0] == presence[-1] == 0 and presence[26] == 1
    np.testing.assert_allclose(forward.progress(there, 0.05), forward.progress(there - 0.05), atol=1e-12)  # later


@pytest.mark.parametrize("thing", range(8))
def test_one_frame_at_the_annotated_centre_does_not_tell_the_verb_of_a_pair(thing):
    seen = []
    for which in (0, 1):
        verb, rows = ACTIONS.index((thing, which)), []
        for act in draw([verb] * 1000, seed=10 + which):
            t = np.array([act.centre])
            head = (act.head(t)[:, 0] + act.rest(first=True))[:2] - [act.azimuth, 0]
            rows.append([*act.progress(t), *act.path(t)[0], *act.presence(t), *head, act.duration, act.length])
        seen.append(np.array(rows).T)
    for name, one, other in zip(
        ("progress", "left", "up", "presence", "yaw", "pitch", "s", "length"), *seen, strict=True
    ):
        if np.ptp(one) + np.ptp(other) > 1e-9:
            assert distance(one, other) < 1, name
    assert np.ptp(seen[0][0]) > 0.2 or THINGS[thing].kind == "cyclic"  # and the progress does vary


def test_head_that_does_not_follow_tells_no_verb():
    acts = draw(PAIRED * 3, coupling=0.5)
    others = [act if any(act.turn) else replace(act, second=not act.second) for act in acts]
    assert 10 < sum(one != other for one, other in zip(acts, others, strict=True)) < 48
    wearer, t = behaviour.draw_wearer("P01", 0), np.arange(0, acts[-1].centre, 0.1)
    one, other = (HeadMotion(wearer, some, 9.0, np.random.default_rng(0)).state(t) for some in (acts, others))
    np.testing.assert_allclose(one, other, atol=1e-12)


# --- Acts


def test_acts_follow_one_another_on_the_grid_of_frames():
    acts, wearer = draw(list(range(20)) * 50), behaviour.draw_wearer("P01", 0)
    gaps = np.array([b.start - a.stop for a, b in itertools.pairwise(acts)])
    assert gaps.min() >= GAPS[0] - 1e-9 and gaps.max() <= GAPS[1] + 1e-9
    assert gaps.mean() == pytest.approx(1.8, abs=0.1) and acts[0].start > 1
    steps = np.degrees(np.diff([act.azimuth for act in acts]))
    assert 48 <= np.abs(steps).min() and np.abs(steps).max() <= 60 and len(set(np.sign(steps))) == 1
    duration, offset = (np.array([getattr(act, name) for act in acts]) for name in ("duration", "offset"))
    assert duration.min() >= 0.6 and duration.max() <= 3
    many = [act.duration for k in range(1, 30) for act in draw([0] * 200, wearer=f"P{k:02d}")]
    assert np.quantile(many, (0.25, 0.5, 0.75)) == pytest.approx([1.0, 1.4, 2.0], abs=0.06)  # as docs/world.md says
    slower = np.median([act.duration for act in draw([0] * 1000, wearer="P02")])
    paces = wearer.pace, behaviour.draw_wearer("P02", 0).pace
    assert (np.median(duration) > slower) == (paces[0] > paces[1]) and abs(paces[0] - paces[1]) > 0.05
    assert np.abs(offset).max() <= 0.125 and abs(offset.mean()) < 4 * offset.std() / math.sqrt(len(offset))
    for act in acts:
        assert act.centre * 20 == pytest.approx(round(act.centre * 20), abs=1e-9)
        assert act.length * 10 == pytest.approx(round(act.length * 10), abs=1e-9)  # so that its ends are frames, too
        assert abs(act.length - min(act.duration, 2.1)) < 0.1 * act.duration + 0.06 or act.length == 0.4
        assert act.length <= CLIP_SECONDS  # one clip, around the centre
        assert VERBS[act.verb] == THINGS[act.thing].verbs[act.second][0]


@pytest.mark.parametrize("coupling", [1.0, 0.5, 0.0])
def test_head_follows_in_the_drawn_share_by_log_uniform_angles(coupling):
    acts = draw(list(range(20)) * 200, coupling=coupling)
    turns, bobs = [], []
    for number, thing in enumerate(THINGS):
        own = [act for act in acts if act.thing == number]
        follows = np.array([any(act.turn) for act in own])
        share = coupling * thing.follow
        assert abs(follows.mean() - share) <= 4 * math.sqrt(share * (1 - share) / len(own))
        assert all(any(act.lean) == follow for act, follow in zip(own, follows, strict=True))
        for act in (act for act, follow in zip(own, follows, strict=True) if follow):
            if thing.kind == "cyclic":
                bobs.append(np.degrees(np.array(act.turn) * 0.065))
            else:
                turns.append(math.degrees(math.hypot(*act.turn)) / math.hypot(*thing.turn))
                direction = np.array(thing.turn) / math.hypot(*thing.turn)
                np.testing.assert_allclose(act.turn / np.hypot(*act.turn), direction, atol=1e-12)
    if coupling:
        even = (np.arange(4000) + 0.5) / 4000
        assert 2 <= min(turns) and max(turns) <= 17
        assert distance(np.log(np.array(turns) / 2) / math.log(17 / 2), even) < 1
        bobs = np.array(bobs)
        assert 0.15 <= bobs.min() and 1.5 < bobs.max() <= 2
        # A log-uniform size times an even factor of 0.5 to 1.
        expected = np.outer(0.3 * (2 / 0.3) ** even[::40], 0.5 + 0.5 * even[::40]).ravel()
        assert distance(bobs[:, 0], expected) < 1 and distance(bobs[:, 1], expected) < 1
    else:
        assert not turns and not bobs


# --- Strokes


def test_strokes_have_the_drawn_mean_rate():
    rng = np.random.default_rng(0)
    t = np.arange(0, 60, 0.005)
    for fast in (False, True) * 10:
        stroke = replace(behaviour.draw_stroke(fast, rng), pauses=())
        cos, sin = math.cos(stroke.angle), math.sin(stroke.angle)
        x, y = (stroke.path(t) @ np.array([[cos, -sin], [sin, cos]])).T
        cycles = np.unwrap(np.arctan2(y / stroke.flat, x)) / (2 * math.pi)
        assert (cycles[-1] - cycles[0]) / 60 == pytest.approx(stroke.rate, rel=0.03)
        assert (np.diff(cycles) > 0).all()  # uneven and drifting, never backwards


def test_drawn_strokes_pause_at_most_once_before_and_once_after_their_middle():
    """Two pauses in one half would make the path run backwards."""
    rng = np.random.default_rng(0)
    sides = [tuple(np.sign(middle) for middle, _ in behaviour.draw_stroke(True, rng).pauses) for _ in range(200)]
    assert set(sides) == {(), (-1,), (1,), (-1, 1)}


def test_strokes_stand_still_in_a_pause_and_are_late_by_it_afterwards():
    paused, going = one_stroke(pauses=((0.3, 0.25),)), one_stroke()
    for middle, speed in ((0.3, 0.0), (1.0, None)):
        moved = np.ptp(paused.path(np.array([middle - 1e-3, middle + 1e-3])), axis=0)
        assert np.hypot(*moved) / 2e-3 < 1e-3 if speed == 0 else np.hypot(*moved) / 2e-3 > 0.2
    t = np.array([0.7, 1.2])
    np.testing.assert_allclose(paused.path(t), going.path(t - 0.25), atol=1e-12)
    np.testing.assert_allclose(paused.path(-t), going.path(-t), atol=1e-12)


def test_strokes_are_short_and_smooth_and_begin_and_end_softly():
    for act in draw(list(range(8, 16)) * 12):
        t = np.arange(act.start - 0.3, act.stop + 0.3, 1e-3)
        path = act.path(t)
        assert np.hypot(*path.T).max() <= act.stroke.radius < 0.09
        outside = (t < act.start) | (t > act.stop)
        assert not path[outside].any()
        for edge, inward in ((act.start, 1), (act.stop, -1)):
            inside = np.abs(act.path(edge + inward * np.array([0.01, 0.2]))).max(1)
            assert inside[0] < 0.002  # after 10 ms
            later = edge + inward * np.array([0.2, 0.25])  # whole after 0.2 s
            np.testing.assert_allclose(act.path(later), act.stroke.path(act.own_time(later)), atol=1e-9)
        # The second difference is that of a curve without kinks: half the step, a quarter of it.
        coarse, fine = (np.abs(np.diff(act.path(t[:: 2 // n]), 2, axis=0)).max() for n in (1, 2))
        assert fine < 0.3 * coarse
        assert coarse / 4e-6 < 0.09 * (2 * math.pi * 1.6 * 1.5 * 3.3) ** 2 * 1.5  # m/s2
        # The head moves with it after its lag; the hand is on the thing meanwhile.
        if any(act.turn):
            left, up = act.path(t, act.lag).T
            np.testing.assert_allclose(act.head(t)[:2], [act.turn[0] * left, -act.turn[1] * up], atol=1e-12)
            np.testing.assert_allclose(act.path(t, act.lag)[:, 0], act.path(t - act.lag)[:, 0], atol=1e-12)
        assert (act.presence(t[~outside]) == 1).all()


def test_an_idle_hand_is_there_as_long_as_in_an_act_and_nothing_else_moves():
    t = np.arange(8.5, 11.5, 0.01)
    for thing in range(len(THINGS)):
        act = one_act(thing)
        idle = act.idle(0.3)
        assert (idle.presence(t) == act.presence(t)).all() and idle.presence(t).max() == 1
        assert (idle.progress(t) == 0.3).all() and not idle.path(t).any() and not idle.head(t).any()
        assert np.ptp(steady(idle).state(t), axis=1).max() == 0


# --- Motion of the head


def plain_state(motion, t):
    """`HeadMotion.state` without windows: every act and every turn, at all times."""
    acts, sway = motion.acts, motion.sway(t)
    aim = np.repeat(acts[0].rest(first=True)[:, None], len(t), axis=1)
    azimuth = np.full(len(t), acts[0].azimuth)
    for act in acts:
        aim += act.head(t)
    for act, following in itertools.pairwise(acts):
        step = behaviour.minimum_jerk((t - (act.stop + following.start) / 2) / TURN + 0.5)
        aim += (following.rest(first=True) - act.rest(first=False))[:, None] * step
        azimuth += (following.azimuth - act.azimuth) * step
    left, forward = aim[2] + sway[3], aim[3] + sway[4]
    x, y = forward * np.cos(azimuth) - left * np.sin(azimuth), forward * np.sin(azimuth) + left * np.cos(azimuth)
    return np.stack([aim[0] + sway[0], aim[1] + sway[1], sway[2], x, y, aim[4] + sway[5]])


def test_state_is_the_sum_over_all_acts():
    acts, wearer = draw(list(range(20))), behaviour.draw_wearer("P03", 0)
    duration = acts[-1].centre + 2
    motion = HeadMotion(wearer, acts, duration, np.random.default_rng(2))
    t = np.arange(-1, duration + 1, 0.01)
    np.testing.assert_allclose(motion.state(t), plain_state(motion, t), atol=1e-12)
    np.testing.assert_allclose(motion.state(t[500:900]), motion.state(t)[:, 500:900], atol=1e-12)


def test_head_turns_to_the_next_station_between_acts_and_faces_the_middle_of_each():
    acts = [replace(act, lag=0.0) for act in draw(PAIRED * 2)]
    motion = steady(*acts)
    turns = [-math.inf, *((a.stop + b.start) / 2 for a, b in itertools.pairwise(acts)), math.inf]
    for act, (before, after) in zip(acts, itertools.pairwise(turns), strict=True):
        begin, end = max(act.start - 0.5, before + TURN / 2), min(act.stop + 0.5, after - TURN / 2)
        assert begin <= act.start + 1e-9 and end >= act.stop - 1e-9
        t = np.linspace(begin, end, 15)  # no turn within: the head moves as if there were this act alone
        np.testing.assert_allclose(motion.state(t), steady(act).state(t), atol=1e-9)
        ends = steady(act).state(np.array([act.start - 0.9, act.stop + 0.9]))
        np.testing.assert_allclose(ends[:2].mean(1), [act.azimuth, act.pitch], atol=1e-9)
        turn = np.array(act.turn) * (-1) ** act.second if act.kind == "reversal" else (0.0, 0.0)
        np.testing.assert_allclose(np.diff(ends[:2], axis=1)[:, 0], turn, atol=1e-9)


def test_head_leans_in_the_axes_of_its_station():
    act = one_act(0, azimuth=math.pi / 2)  # faces y: forward is +y, left is -x
    before, after = steady(act).state(np.array([8.5, 11.5])).T
    left, forward, up = act.lean
    np.testing.assert_allclose((after - before)[3:], [-left, forward, up], atol=1e-12)
    np.testing.assert_allclose((after - before)[:3], [0.2, 0.1, 0], atol=1e-12)


def test_head_moves_smoothly():
    acts = draw(list(range(20)))
    motion = HeadMotion(behaviour.draw_wearer("P01", 0), acts, 60.0, np.random.default_rng(0))
    speed = np.diff(motion.state(np.arange(0, 60, 1e-3))) * 1e3
    jumps = np.abs(np.diff(speed)).max(1)
    assert jumps[:3].max() < 0.2 and jumps[3:].max() < 0.02  # at most 200 rad/s2 and 20 m/s2


def test_glances_are_of_the_stated_number_and_size():
    wearer = behaviour.draw_wearer("P01", 0)
    glances = HeadMotion(wearer, draw([0]), 20_000.0, np.random.default_rng(0)).glances
    expected = wearer.glances * 20_000
    assert abs(len(glances) - expected) < 4 * math.sqrt(expected)
    sizes = np.degrees([math.hypot(glance.yaw, 2 * glance.pitch) for glance in glances])
    assert sizes.min() >= 2 and sizes.max() <= 17
    motion = steady(one_act())
    motion.glances = [behaviour.Glance(start=2.0, ramp=0.5, hold=1.0, yaw=0.2, pitch=-0.1)]
    yaw, pitch = motion.sway(np.array([1.9, 2.25, 3.0, 4.1]))[:2]
    np.testing.assert_allclose(yaw, [0, 0.1, 0.2, 0], atol=1e-12)
    np.testing.assert_allclose(pitch, -yaw / 2, atol=1e-12)


def test_wearers_differ_and_keep_their_habits():
    wearers = [behaviour.draw_wearer(f"P{k:02d}", 0) for k in range(1, 60)]
    assert behaviour.draw_wearer("P07", 0) == wearers[6] != replace(behaviour.draw_wearer("P07", 1), name="P07")
    mounts = np.abs(np.degrees([wearer.mount for wearer in wearers])).max(0)
    assert (mounts <= [4, 6, 10]).all() and (mounts > [3, 5, 8]).all()
    rates, offsets = np.array([wearer.rate for wearer in wearers]), [wearer.clock[0] for wearer in wearers]
    assert rates.min() >= 194 and rates.max() <= 202 and np.ptp(rates) > 6
    assert np.abs(offsets).max() <= 0.03 and np.ptp(offsets) > 0.04


# --- The camera's pose and the readings of its sensor


def test_pose_is_that_of_a_camera_mounted_on_the_head():
    yaw, pitch, roll = mount = (0.06, -0.1, 0.15)
    cy, cp, cr, sy, sp, sr = (f(angle) for f in (math.cos, math.sin) for angle in mount)
    turned = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])  # about up, in the axes left, back, up
    turned = (
        turned @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    )
    acts, t = draw(list(range(8))), np.linspace(1, 12, 30)
    motion = HeadMotion(replace(behaviour.draw_wearer("P01", 0), mount=mount), acts, 20.0, np.random.default_rng(0))
    rotations, places = motion.pose(t)
    state = motion.state(t)
    for rotation, place, (yaw, pitch, roll, *expected) in zip(rotations, places, state.T, strict=True):
        np.testing.assert_allclose(rotation, axes(yaw, pitch, roll) @ turned, atol=1e-12)
        np.testing.assert_allclose(place, expected, atol=1e-12)


def test_still_head_reads_gravity_in_the_mounted_axes():
    def force(pitch, mount):
        force, rate = steady(one_act(turn=(0.0, 0.0), lean=(0.0,) * 3, pitch=pitch), mount=mount).imu(np.array([1.0]))
        np.testing.assert_allclose(rate, 0, atol=1e-9)
        return force[0] / GRAVITY

    np.testing.assert_allclose(force(0.0, (0.0, 0.0, 0.0)), [0, 0, 1], atol=1e-6)
    # Looking down, the axis towards the wearer points up; a side that is lowered reads less.
    np.testing.assert_allclose(force(0.3, (0.0, 0.0, 0.0)), [0, math.sin(0.3), math.cos(0.3)], atol=1e-6)
    np.testing.assert_allclose(force(0.1, (0.0, 0.2, 0.0)), [0, math.sin(0.3), math.cos(0.3)], atol=1e-6)
    np.testing.assert_allclose(force(0.0, (0.0, 0.0, 0.2)), [-math.sin(0.2), 0, math.cos(0.2)], atol=1e-6)
    np.testing.assert_allclose(force(0.0, (0.5, 0.0, 0.0)), [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("mount", [(0.0, 0.0, 0.0), (0.05, -0.1, 0.15)])
def test_constant_turn_reads_as_that_rate_in_the_mounted_axes(mount, monkeypatch):
    motion = steady(one_act(), mount=mount)
    monkeypatch.setattr(motion, "state", lambda t: np.stack([0.7 * t, *np.zeros((5, len(t)))]))
    force, rate = motion.imu(np.array([0.0, 1.0, 2.0]))
    expected = (axes(0, 0, 0) @ motion.mount).T @ [0, 0, 0.7]
    np.testing.assert_allclose(rate, [expected] * 3, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(force, [expected / 0.7 * GRAVITY] * 3, atol=1e-5)


def test_readings_without_noise_are_derivatives_of_the_pose():
    """By finite differences of other steps, and the vector of rotation between two poses."""
    acts, wearer = draw(list(range(0, 20, 3))), behaviour.draw_wearer("P03", 0)
    motion = HeadMotion(wearer, acts, 25.0, np.random.default_rng(1))
    motion.walks = [(2.0, 6.0, 1.0, 0.3)]
    t, step = np.linspace(0.5, acts[-1].stop, 400), 2e-4
    force, rate = motion.imu(t)
    before, here, after = (motion.pose(t + d)[0] for d in (-step, 0.0, step))
    between = np.einsum("nji,njk->nik", before, after)  # in the axes of the camera
    angle = np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1))
    axis = np.stack([between[:, k, j] - between[:, j, k] for j, k in ((1, 2), (2, 0), (0, 1))], 1)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    np.testing.assert_allclose(rate, axis * (angle / (2 * step))[:, None], atol=2e-3)
    step = 4e-3  # a fourth-order second derivative of the place
    places = [motion.pose(t + k * step)[1] for k in (-2, -1, 0, 1, 2)]
    acceleration = sum(w * p for w, p in zip((-1, 16, -30, 16, -1), places, strict=True)) / (12 * step**2)
    assert np.abs(acceleration).max() > 1
    wanted = np.einsum("nij,ni->nj", here, acceleration + np.array([0, 0, 9.81]))
    np.testing.assert_allclose(force, wanted, atol=0.05)


def test_gyroscope_integrates_back_to_the_rotation():
    acts = draw([0, 1, 8])
    motion = HeadMotion(behaviour.draw_wearer("P02", 0), acts, 12.0, np.random.default_rng(1))
    edges = np.arange(acts[0].start, acts[2].stop, 0.002)
    rates, rotation = motion.imu((edges[:-1] + edges[1:]) / 2)[1], motion.pose(edges)[0]
    seen = rotation[0]
    for x, y, z in rates * 0.002:
        angle = math.sqrt(x * x + y * y + z * z)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        sine, versine = np.sinc(angle / math.pi), 0.5 * np.sinc(angle / 2 / math.pi) ** 2
        seen = seen @ (np.eye(3) + sine * cross + versine * cross @ cross)
    assert np.ptp(motion.state(edges)[0]) > math.radians(80)  # two turns are in it
    np.testing.assert_allclose(seen, rotation[-1], atol=2e-4)


def test_readings_stay_physical():
    for name in ("P01", "P02", "P30"):
        acts = draw(list(range(20)) * 2, wearer=name)
        motion = HeadMotion(behaviour.draw_wearer(name, 0), acts, 120.0, np.random.default_rng(0))
        force, rate = motion.imu(np.arange(0, 120, 0.01))
        assert np.abs(np.linalg.norm(force, axis=1) - GRAVITY).max() < 20 and np.abs(rate).max() < 12


def sensor(clean, **habits):
    """The readings of 300 s by a sensor that would read `clean(true time)` [n, 3] if it were perfect."""
    motion = steady(one_act(), **habits)
    motion.imu = lambda t: (clean(t), clean(t))
    return motion.wearer, motion.readings(300.0, np.random.default_rng(3))


def test_sensors_have_their_own_rates_and_clock():
    """What happens at t is written at the time of the sensor's own clock."""
    moments = np.array([20.0, 150.0, 280.0])

    def pulses(t):
        return np.repeat(1e4 * np.exp(-0.5 * ((t[:, None] - moments) / 0.02) ** 2).sum(1)[:, None], 3, 1)

    wearer, found = sensor(pulses, clock=(0.025, 1 + 2e-4))
    for (times, values), first, relative in zip(found, (0.0, 0.0021), (1.0, 1.0015), strict=True):
        np.testing.assert_allclose(times, first + np.arange(len(times)) / (relative * wearer.rate), atol=1e-9)
        assert 300 - 2 / wearer.rate < times[-1] <= 300
        for moment in moments:
            near = np.abs(times - moment) < 0.3
            centre = (times[near] * values[near, 0]).sum() / values[near, 0].sum()
            assert centre == pytest.approx((moment - 0.025) / (1 + 2e-4), abs=5e-4)


def test_sensors_have_noise_bias_and_scale_of_the_stated_size():
    scale = (1.02, 0.98, 1.01, 0.99, 1.0, 1.015)
    _, found = sensor(lambda t: np.full((len(t), 3), 1e6), scale=scale)
    for k, (_, values) in enumerate(found):
        np.testing.assert_allclose(values.mean(0) / 1e6, scale[3 * k : 3 * k + 3], atol=1e-5)
    wearer, found = sensor(lambda t: np.zeros((len(t), 3)), noise=1.4)
    for (_, values), noise in zip(found, (0.06, 0.006), strict=True):
        assert np.diff(values, axis=0).std() / math.sqrt(2) == pytest.approx(1.4 * noise, rel=0.02)

    biases, changes, motion = [], [], steady(one_act())
    motion.imu = lambda t: (np.zeros((len(t), 3)),) * 2
    for seed in range(60):
        found = [values for _, values in motion.readings(15.0, np.random.default_rng(seed))]
        biases.append([values[:50].mean(0) for values in found])
        # Means over 2 s, 10 s apart: a random walk's differ by drift * sqrt(10 - 2 / 3).
        changes.append([values[2200:2600].mean(0) - values[200:600].mean(0) for values in found])
    biases, changes = np.array(biases), np.array(changes)
    limits = np.array([0.3, 0.02])[:, None]
    assert (np.abs(biases).max((0, 2)) < 1.2 * limits[:, 0]).all()
    np.testing.assert_allclose(np.sqrt(np.square(biases).mean((0, 2))), limits[:, 0] / math.sqrt(3), rtol=0.15)
    seconds = 2000 / wearer.rate
    drift = np.sqrt(np.square(changes).mean((0, 2)) / (seconds - 400 / wearer.rate / 3))
    np.testing.assert_allclose(drift, [0.02, 0.002], rtol=0.2)
