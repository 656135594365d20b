"""Write the tables and figures of the evidence from the lines in results/, without training anything.

    python -m lab.evidence_report                          # prints them, and writes figures/*
    python -m lab.evidence_report --markdown results/evidence_report.md    # and writes them there

Differences are paired by seed and wearer, with two-way intervals (`intervals`): those of the primary contrasts are
tested by Holm's procedure within each world; all other numbers are descriptive. Published differences are those of
EgoDistill's Tables 1, 2 and 4 on EPIC-KITCHENS and Ego4D.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import benches, contrasts, evidence, figures, paper
from lab.benches import Run
from lab.contrasts import Outcome
from lab.intervals import Interval
from lab.paper import Row

FIGURES = Path(__file__).resolve().parent.parent / "figures"

KINDS = {
    kind: [verb for thing in behaviour.THINGS if thing.kind == kind for verb, _ in thing.verbs]
    for kind in behaviour.KINDS
}
# {(method, frames) pair: published difference in points on (EPIC-KITCHENS, Ego4D)}. The first is 44.95 - 37.20 of
# Table 2; the paper's text gives 8.4 for it.
PUBLISHED = {
    ("EgoDistill", 1, "VisOnly-Distill", 1): ("+7.8", "+3.6"),
    ("EgoDistill", 1, "VisIMU", 1): ("+9.9", "+3.8"),
    ("EgoDistill", 4, "EgoDistill", 1): ("+7.5", "+0.5"),
}

# {choice of four frames: top-1 on (EPIC-KITCHENS, Ego4D)}, Table 4
PUBLISHED_FRAMES = {
    "uniform": (52.43, 38.46),
    "random": (48.48, 36.85),
    "first": (46.40, 38.68),
    "last": (41.72, 35.46),
    "centre": (44.85, 37.04),
}


def outcomes(world: str) -> dict[Run, list[Outcome]]:
    """Return the outcomes of each kind of run in a world, by its run with seed 0; nothing without lines."""
    if not evidence.path_of(world).exists():
        return {}
    lines, found = evidence.finished(world).values(), {}
    classes = classes_of(world, lines)
    for line in lines:
        outcome = outcome_of(line, line["correct"], classes)
        found.setdefault(replace(run_of_line(line), seed=0), []).append(outcome)
    return found


def classes_of(world: str, lines: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the classes of the test segments of each wearer of a world. Exit if a line is of other segments."""
    about = evidence.segments_path(world)
    segments = files.read_json(about)
    for line in lines:
        if line["test"] != segments["digest"]:
            where = evidence.path_of(world)
            raise SystemExit(f"{where}: {line['name']} is a result on other test segments than those of {about}")
    names = segments["class_names"]
    return {wearer: [names[k] for k in one["classes"]] for wearer, one in segments["wearers"].items()}


def run_of_line(line: Mapping[str, Any]) -> Run:
    return Run(**{**line["run"], "without": tuple(line["run"]["without"])})


def outcome_of(line: Mapping[str, Any], bits: Any, classes: Any, test: str | None = None) -> Outcome:
    """Return the outcome of a line on a set of acts, of which `bits` says which are right; None: on its test set."""
    teacher = line.get("teacher", "not recorded") if line["run"]["teacher"] else None
    return Outcome(line["name"], line["run"]["seed"], contrasts.unpack(bits), test or line["test"], classes, teacher)


def shown(p: float) -> str:
    """Return an adjusted p-value as text."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values of a family of tests, adjusted by Holm's step-down procedure, in the same order.

    Rejecting those of at most 0.05 keeps the probability of any false rejection at 5 %, however the tests depend on
    each other (Holm, "A simple sequentially rejective multiple test procedure", 1979).
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def shared_seeds(first: Iterable[Outcome], second: Iterable[Outcome]) -> tuple[list[Outcome], list[Outcome]]:
    """Return the outcomes of the seeds that both have; rivals have fewer seeds than the main methods.

    Two students of one seed are left out if their teacher was trained again in between, on another machine.
    """
    one, two = ({outcome.seed: outcome for outcome in some} for some in (first, second))
    seeds = [k for k in sorted(one.keys() & two.keys()) if len({one[k].teacher, two[k].teacher} - {None}) < 2]
    return [one[seed] for seed in seeds], [two[seed] for seed in seeds]


def run_of(method: str, frames: int) -> Run:
    return Run(method, frames=frames, teacher=evidence.TEACHER if method in benches.DISTILLED else None)


def is_main(run: Run) -> bool:
    """Return whether a run is one of the comparison of methods, and not of what is described beside it."""
    plain = not run.without and run.sampling == "uniform" and run.share is None
    return plain and run.teacher in (None, evidence.TEACHER)


def primary(world: str) -> tables.Table:
    """Return the table of the primary contrasts of a world."""
    found, rows = outcomes(world), []
    pairs = {
        (*first, *second): shared_seeds(found.get(run_of(*first), []), found.get(run_of(*second), []))
        for first, second in evidence.PRIMARY
    }
    gaps = {names: contrasts.difference(one, two) for names, (one, two) in pairs.items() if one}
    adjusted = holm([gap.p for gap in gaps.values()])
    for (names, gap), p in zip(gaps.items(), adjusted, strict=True):
        first, n, second, m = names
        kinds = [contrasts.difference(*pairs[names], groups={kind: KINDS[kind]}) for kind in ("reversal", "cyclic")]
        weighted = contrasts.difference(*pairs[names], groups=KINDS, weights=behaviour.EPIC_SHARES)
        seeds = str(gap.seeds) if gap.seeds > 1 else "1: over wearers alone"
        cells = [str(gap), *map(str, kinds), str(weighted), shown(p), *PUBLISHED.get(names, ("", "")), seeds]
        rows.append([f"{first}, N = {n}", f"{second}, N = {m}", *cells])
    header = ["method", "minus", "points", "reversal", "cyclic", "EPIC's shares", "p (Holm)"]
    return tables.Table([*header, "EPIC, published", "Ego4D, published", "seeds"], rows)


# Differences that the text names beside the primary ones: (method, frames) minus (method, frames).
DESCRIBED = [
    (("VisOnly-Distill", 2), ("EgoDistill", 1)),
    (("EgoDistill", 2), ("VisOnly-Distill", 4)),
    (("EgoDistill", 4), ("EgoDistill", 2)),
    (("VisIMU", 1), ("VisOnly-Distill", 1)),
]


def described(world: str) -> tables.Table:
    """Return the table of the differences that are described: of a world, and those to an augmented VisIMU."""
    known, rival, rows = outcomes(world), run_of("VisIMU", 1), []
    pairs = {
        (f"{first}, N = {n}", f"{second}, N = {m}"): (known.get(run_of(first, n), []), known.get(run_of(second, m), []))
        for (first, n), (second, m) in DESCRIBED
    }
    for variant, source in evidence.AUGMENTED_RIVAL.items() if world == "A" else ():
        augmented, where = outcomes(variant).get(rival, []), "" if source == world else ", clean labels"
        plain = outcomes(source)
        pairs[f"augmented VisIMU{where}", f"VisIMU{where}"] = augmented, plain.get(rival, [])
        pairs[f"EgoDistill{where}", f"augmented VisIMU{where}"] = plain.get(run_of("EgoDistill", 1), []), augmented
    for names, pair in pairs.items():
        one, two = shared_seeds(*pair)
        if one:
            kinds = [contrasts.difference(one, two, groups={kind: KINDS[kind]}) for kind in behaviour.KINDS]
            gap = contrasts.difference(one, two)
            rows.append([*names, str(gap), *map(str, kinds), str(gap.seeds)])
    return tables.Table(["method", "minus", "points", *behaviour.KINDS, "seeds"], rows)


def accuracies(world: str) -> tables.Table:
    """Return the accuracy of every method of a world, by kind of verb, with the share of things that it names."""
    lines, rows = list(evidence.finished(world).values()), []
    for run, some in sorted(outcomes(world).items(), key=lambda item: (item[0].method, item[0].frames)):
        if not is_main(run):
            continue
        kinds = [contrasts.accuracy(some, groups={kind: KINDS[kind]}).mean for kind in behaviour.KINDS]
        weighted = contrasts.accuracy(some, groups=KINDS, weights=behaviour.EPIC_SHARES)
        own = [line for line in lines if line["name"] in {one.name for one in some}]
        things = statistics.mean(100 * line["things"] for line in own)
        wearers = by_wearer(some)
        accuracy = contrasts.accuracy(some)
        cells = [f"{accuracy:.1f}", told(run, world, accuracy), *(f"{kind:.1f}" for kind in kinds)]
        cells.append(f"{weighted.mean:.1f}")
        cells += [f"{things:.1f}", f"{min(wearers.values()):.0f} to {max(wearers.values()):.0f}", str(len(some))]
        rows.append([run.method, "" if run.method == "teacher" else str(run.frames), *cells])
    header = ["method", "N", "top-1 (%)", "inputs tell", *behaviour.KINDS, "EPIC's shares", "things", "wearers"]
    return tables.Table([*header, "seeds"], rows)


def told(run: Run, world: str, accuracy: Interval) -> str:
    """Return what the inputs of a run tell in %, or nothing where no line of ceilings.py says so.

    A method whose interval is more than two standard errors above it is marked: the world or the estimate is wrong.
    """
    known = ceilings(evidence.WORLDS[world].get("coupling", 1.0))
    limit, error = known.get(inputs_of(run.method, run.frames, world), (None, 0.0))
    return "" if limit is None else f"{limit:.1f}" + (" (exceeded)" if accuracy.low > limit + 2 * error else "")


def controls() -> tables.Table:
    """Return the accuracies and differences of world A, and of the worlds that change one thing of it.

    A method that a change does not concern is that of the world that is varied: VisOnly-Distill beside exchanged head
    motion, and all but VisIMU beside an augmented one.
    """
    rows = []
    for world, n in itertools.product(("A", *evidence.CONTROLS), (1, 2)):
        found = outcomes(world)
        if not any(run.frames == n for run in found if run.method != "teacher"):
            continue
        ego, alone, labels = (run_of(method, n) for method in ("EgoDistill", "VisOnly-Distill", "VisIMU"))
        seeds = {one.seed for some in found.values() for one in some}
        source = outcomes(evidence.source_of(world))
        found = {run: [one for one in some if one.seed in seeds] for run, some in source.items()} | found
        own, pair = (shared_seeds(found.get(ego, []), found.get(other, [])) for other in (alone, labels))
        if not own[0]:
            continue
        accuracy = contrasts.accuracy(found[ego])
        cells = [f"{accuracy:.1f}", told(ego, world, accuracy), f"{contrasts.accuracy(own[1]).mean:.1f}"]
        cells.append(str(contrasts.difference(*own)))
        cells += [str(contrasts.difference(*own, groups={kind: KINDS[kind]})) for kind in PAIRS]
        cells.append(str(contrasts.difference(*pair)) if pair[0] else "")
        rows.append([world, str(n), *cells, str(len(own[0]))])
    header = ["world", "N", "EgoDistill", "inputs tell", "VisOnly-Distill", "minus VisOnly-Distill"]
    return tables.Table([*header, *(f"on {kind} verbs" for kind in PAIRS), "minus VisIMU", "seeds"], rows)


def by_wearer(some: Iterable[Outcome]) -> Mapping[str, float]:
    """Return the accuracy in % on each wearer, the mean over seeds."""
    values: dict[str, list[float]] = {}
    for outcome in some:
        for wearer, right in outcome.correct.items():
            values.setdefault(wearer, []).append(100 * float(right.mean()))
    return {wearer: statistics.mean(all_seeds) for wearer, all_seeds in values.items()}


def ablation(world: str) -> tables.Table:
    """Return Table 1: EgoDistill without each loss, and the difference."""
    found = outcomes(world)
    whole = found[run_of("EgoDistill", 1)]
    rows = []
    for name, losses in paper.ABLATIONS.items():
        some = found.get(replace(run_of("EgoDistill", 1), without=losses), [])
        one, two = shared_seeds(some, whole)
        if one:
            gap = "" if not losses else str(contrasts.difference(one, two))
            rows.append([name, f"{contrasts.accuracy(one):.1f}", gap, str(len(one))])
    return tables.Table(["losses", "top-1 (%)", "minus EgoDistill", "seeds"], rows)


def stage_1(world: str) -> tables.Table:
    """Return what stage 1 gives if a share of the clips has a teacher's outputs.

    All runs of a share take equally many steps. Differences are to the run without stage 1. The last columns are by
    seed, in order.
    """
    found, rows = outcomes(world), []
    for share in evidence.SHARES:
        taught = replace(run_of("EgoDistill", 1), share=share)
        arms = {
            "none": replace(taught, without=benches.STAGE_1_LOSSES),
            "L_NCE on all clips": replace(taught, without=("pretrain_l1",)),
            "L_NCE on all clips, L_1 on those with a teacher": taught,
            "both on those with a teacher": replace(taught, stage_1_on="share"),
        }
        base = found.get(arms["none"], [])
        for name, run in arms.items():
            one, two = shared_seeds(found.get(run, []), base)
            if not one:
                continue
            gap = [] if name == "none" else [str(contrasts.difference(one, two)), by_seed(one, two)]
            cells = [f"{contrasts.accuracy(one):.1f}", *(gap or ["", ""])]
            rows.append([f"{100 * share:g} %", name, *cells, reversals(one), str(len(one))])
    header = ["clips with a teacher", "stage 1", "top-1 (%)", "minus none", "by seed", "reversal, by seed", "seeds"]
    return tables.Table(header, rows)


def reversals(some: Iterable[Outcome]) -> str:
    """Return the accuracy on reversals of each seed, in percent."""
    of_kind = {"reversal": KINDS["reversal"]}
    return ", ".join(f"{contrasts.accuracy([one], groups=of_kind).mean:.1f}" for one in some)


def by_seed(first: Iterable[Outcome], second: Iterable[Outcome]) -> str:
    """Return the difference of each seed, in points."""
    pairs = zip(first, second, strict=True)
    return ", ".join(f"{contrasts.difference([one], [two]).mean:+.1f}" for one, two in pairs)


def teachers() -> tables.Table:
    """Return Table 2: the students of each teacher in world A, and how many wrong labels the teacher repeats."""
    lines, found, rows = evidence.finished("A").values(), outcomes("A"), []
    for name in (evidence.TEACHER, *evidence.OTHER_TEACHERS):
        runs = [Run(method, teacher=name) for method in ("teacher", "EgoDistill", "VisOnly-Distill")]
        some = [found.get(run, []) for run in runs]
        pairs = shared_seeds(some[1], some[2])
        if some[0] and pairs[0]:
            gap = contrasts.difference(*pairs)
            own = {one.name for one in some[0]}
            repeats = statistics.mean(100 * line["repeats"] for line in lines if line["name"] in own)
            cyclic = [contrasts.accuracy(one, groups={"cyclic": KINDS["cyclic"]}).mean for one in some[:2]]
            teacher, ego, alone = (f"{contrasts.accuracy(one):.1f}" for one in some)
            about = [teacher, reversals(some[0]), f"{cyclic[0]:.1f}", f"{repeats:.1f}"]
            about += [ego, reversals(some[1]), f"{cyclic[1]:.1f}", alone, str(gap), by_seed(*pairs), str(gap.seeds)]
            rows.append([name.rpartition("-")[0], *about])
    kinds = ["reversal, by seed", "cyclic"]
    header = ["teacher", "its top-1 (%)", *kinds, "wrong labels repeated (%)", "EgoDistill", *kinds, "VisOnly-Distill"]
    return tables.Table([*header, "EgoDistill minus VisOnly-Distill", "by seed", "seeds"], rows)


def teacher_curve() -> tables.Table:
    """Return the accuracy of the teachers by the number of A's clips that they learned from, with one seed."""
    lines = list(files.read_lines(evidence.RESULTS / "curve.jsonl", "teacher", "every", "correct", "test"))
    whole, parts, rows = outcomes("A"), (*evidence.CURVE, 1), []
    for name in (evidence.TEACHER, *evidence.OTHER_TEACHERS):
        own = [line for line in lines if line["teacher"] == name]
        found = {line["every"]: Outcome(name, 0, contrasts.unpack(line["correct"]), line["test"]) for line in own}
        found.update((1, one) for one in whole.get(Run("teacher", teacher=name), []) if one.seed == 0)
        if set(found) == set(parts):
            cells = [f"{contrasts.accuracy([found[every]]):.1f}" for every in parts]
            rows.append([name.rpartition("-")[0], *cells])
    return tables.Table(["teacher", *(f"{evidence.WORLD['train_acts'] // every:,} clips" for every in parts)], rows)


def frame_choices() -> tables.Table:
    """Return Table 4: EgoDistill with four frames that are chosen in other ways, and the difference to even ones."""
    even, other = outcomes("A").get(run_of("EgoDistill", 4), []), outcomes(evidence.OTHER_FRAMES)
    rows = [["uniform", f"{contrasts.accuracy(even):.1f}", "", "", "", str(len(even))]] if even else []
    for rule in evidence.FRAME_OPTIONS[evidence.OTHER_FRAMES]["sampling"]:
        one, two = shared_seeds(other.get(replace(run_of("EgoDistill", 4), sampling=rule), []), even)
        if one:
            published = (a - b for a, b in zip(PUBLISHED_FRAMES[rule], PUBLISHED_FRAMES["uniform"], strict=True))
            cells = [str(contrasts.difference(one, two)), *(f"{points:+.1f}" for points in published)]
            rows.append([rule, f"{contrasts.accuracy(one):.1f}", *cells, str(len(one))])
    header = ["frames", "top-1 (%)", "minus uniform", "EPIC, published", "Ego4D, published", "seeds"]
    return tables.Table(header, rows)


def classes(world: str) -> tables.Table:
    """Return the gain of EgoDistill over VisOnly-Distill for each verb with N = 1, the largest first (Figure 4)."""
    found = outcomes(world)
    pair = shared_seeds(found.get(run_of("EgoDistill", 1), []), found.get(run_of("VisOnly-Distill", 1), []))
    gaps = {verb: contrasts.difference(*pair, groups={verb: [verb]}) for verbs in KINDS.values() for verb in verbs}
    kind = {verb: name for name, verbs in KINDS.items() for verb in verbs}
    order = sorted(gaps, key=lambda verb: -gaps[verb].mean)
    return tables.Table(["verb", "kind", "points"], [[verb, kind[verb], str(gaps[verb])] for verb in order])


FOLLOWED = sorted({thing.follow for thing in behaviour.THINGS})  # shares of the acts in which the head follows
PAIRS = ("reversal", "cyclic")  # kinds of things with two verbs


def followed(world: str, frames: int) -> dict[tuple[float, str], tuple[Interval, Interval, Interval]]:
    """Return what head motion adds on pairs, by how often the head follows the hand; nothing without such runs.

    {(share of the acts, kind): (accuracy of EgoDistill, accuracy of VisOnly-Distill, difference)}. With one frame
    nothing but head motion tells the verbs of a pair, which are equally frequent. So at most 50 (1 + share) % can be
    right, and where the head never follows, head motion must add nothing.
    """
    known, found = outcomes(world), {}
    one, two = shared_seeds(*(known.get(run_of(method, frames), []) for method in ("EgoDistill", "VisOnly-Distill")))
    for share, kind in itertools.product(FOLLOWED, PAIRS) if one else ():
        some = [thing for thing in behaviour.THINGS if (thing.kind, thing.follow) == (kind, share)]
        groups = {kind: [verb for thing in some for verb, _ in thing.verbs]}
        right = [contrasts.accuracy(runs, groups=groups) for runs in (one, two)]
        found[share, kind] = (*right, contrasts.difference(one, two, groups=groups))
    return found


def doses(world: str) -> tables.Table:
    """Return the table of `followed()` with one, two and four frames."""
    rows = []
    for n in (1, 2, 4):
        found = followed(world, n)
        for share in FOLLOWED if found else ():
            cells = [
                text
                for right, alone, gain in (found[share, kind] for kind in PAIRS)
                for text in (f"{right.mean:.1f}", f"{alone.mean:.1f}", str(gain))
            ]
            rows.append([str(n), f"{100 * share:g} %", *cells, str(found[share, PAIRS[0]][2].seeds)])
    header = [f"{kind}: {name}" for kind in PAIRS for name in ("EgoDistill", "frames alone", "gain")]
    return tables.Table(["N", "head follows", *header, "seeds"], rows)


def head_follows(seed: int, wearers: Mapping[str, Mapping[str, list]], names: list[str]) -> dict[str, list[str]]:
    """Return the thing of each test act and whether the head follows, such as "tap, follows", by wearer.

    Acts are drawn again from the seed of the world; nothing is rendered. Exit if their verbs are not those of the
    lines' segments.
    """
    found: dict[str, list[str]] = {}
    for wearer, about in wearers.items():
        for video, ids in itertools.groupby(about["ids"], lambda name: name.rpartition("_")[0]):
            acts = synthetic.RenderedRecording(video, acts=len(list(ids)), seed=seed).draw().acts
            found.setdefault(wearer, []).extend(
                f"{behaviour.THINGS[act.thing].look}, {'follows' if any(act.turn) else 'does not'}" for act in acts
            )
            first = len(found[wearer]) - len(acts)
            if [names[k] for k in about["classes"][first : first + len(acts)]] != [
                behaviour.VERBS[act.verb] for act in acts
            ]:
                raise SystemExit(f"{video}: the acts that are drawn today are not those of the lines")
    return found


def within_things(world: str) -> tables.Table:
    """Return the gain of head motion on the pairs whose acts the head follows in half of the cases, by whether it does.

    Both rows of a thing are of the same networks and the same thing, which the doses are not.
    """
    known, rows = outcomes(world), []
    segments = files.read_json(evidence.segments_path(world))
    acts = head_follows(evidence.seed_of(world), segments["wearers"], segments["class_names"])
    for n, thing in itertools.product(
        (1, 2, 4), [one for one in behaviour.THINGS if one.kind in PAIRS and one.follow == 0.5]
    ):
        runs = [known.get(run_of(method, n), []) for method in ("EgoDistill", "VisOnly-Distill")]
        one, two = ([replace(run, classes=acts) for run in some] for some in shared_seeds(*runs))
        for follows in ("does not", "follows") if one else ():
            groups = {"these": [f"{thing.look}, {follows}"]}
            right = [f"{contrasts.accuracy(some, groups=groups).mean:.1f}" for some in (one, two)]
            gain = contrasts.difference(one, two, groups=groups)
            rows.append([str(n), thing.look, thing.kind, follows, *right, str(gain), str(gain.seeds)])
    return tables.Table(["N", "thing", "kind", "head", "EgoDistill", "frames alone", "gain", "seeds"], rows)


def dose_figure(worlds: Iterable[str], stem: Path) -> list[Path]:
    """Draw the gain of head motion by how often the head follows, with one frame, and the largest possible one."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6.4, 4), layout="constrained")
    axes = drawing.subplots()
    x = [100 * share for share in FOLLOWED]
    axes.plot(x, [share / 2 for share in x], color="#777777", ls=":", label="all that head motion tells")
    axes.axhline(0, color="#777777", lw=0.8)
    colors, markers = dict(zip(PAIRS, ("#D55E00", "#0072B2"), strict=True)), {"A": "o", "B": "s"}
    for number, (world, kind) in enumerate(itertools.product(worlds, PAIRS)):
        found = followed(world, 1)
        gains = [found[share, kind][2] for share in FOLLOWED]
        spread = [[one.mean - one.low for one in gains], [one.high - one.mean for one in gains]]
        style = {"color": colors[kind], "marker": markers[world], "ls": "-" if world == "A" else "--", "capsize": 3}
        shifted = [share + 1.2 * number - 1.2 for share in x]  # beside each other
        axes.errorbar(shifted, [one.mean for one in gains], yerr=spread, label=f"{kind}, world {world}", **style)
    axes.set(xlabel="acts in which the head follows the hand (%)", ylabel="EgoDistill minus frames alone (points)")
    axes.set_xticks(x)
    axes.set_title("One frame, pairs of verbs: what head motion adds", fontsize=11)
    axes.grid(alpha=0.35)
    axes.legend(frameon=False)
    return figures.save(drawing, stem)


def figure(world: str, stem: Path) -> list[Path]:
    """Draw accuracy against operations, with the intervals and what the inputs of each method tell at most."""
    costs = {line["name"]: line["gmacs"] for line in evidence.finished(world).values()}
    rows = []
    for run, some in outcomes(world).items():
        if not is_main(run):
            continue
        interval = contrasts.accuracy(some)
        gmacs = statistics.mean(costs[one.name] for one in some)
        rows.append(
            Row(run.method, run.frames, "", interval.mean, None, [], gmacs, None, None, {}, run, interval=interval)
        )
    seeds = max(row.interval.seeds for row in rows)
    title = f"World {world}: {rows[0].interval.wearers} test wearers, up to {seeds} seeds, 95 % intervals"
    known = ceilings()
    drawn = [row for row in rows if row.method in ("EgoDistill", "VisOnly-Distill", "ListenToLook")]
    limits = {(row.method, row.frames): known.get(inputs_of(row.method, row.frames)) for row in drawn}
    return figures.draw(rows, stem, title, {key: limit[0] for key, limit in limits.items() if limit})


def ceilings(coupling: float = 1.0) -> dict[str, tuple[float, float]]:
    """Return what inputs tell at most, {inputs: (%, standard error)}, from the lines of ceilings.py."""
    equal = {kind: len(verbs) / len(behaviour.VERBS) for kind, verbs in KINDS.items()}
    return {
        line["inputs"]: (sum(equal[kind] * line["kinds"][kind] for kind in KINDS), line["error"])
        for line in files.read_lines(evidence.RESULTS / "ceilings.jsonl", "inputs", "coupling", "kinds", "error")
        if line["coupling"] == coupling
    }


def inputs_of(method: str, frames: int, world: str = "A") -> str:
    """Return the inputs of a method that tell something, as ceilings.py names them."""
    if method == "teacher":
        return "clip (16 frames)"
    moving = method in ("EgoDistill", "VisIMU") and world != evidence.EXCHANGED
    blurred = ", shutter of 1/50 s" if world == evidence.BLURRED else ""
    return f"N = {frames}{blurred}" + (" + head motion" if moving else " + sound" if method == "ListenToLook" else "")


def report(
    world: str, name: str, table: tables.Table, markdown: str | None, *more: str, worlds: Iterable[str] = ()
) -> None:
    """Print a table, and write it into a document.

    Its machines are those of the lines of the comparison and of the parts `more`, and of all lines of other `worlds`.
    """
    print(f"\nworld {world}: {name}")
    lines = [line for line in evidence.finished(world).values() if line["part"] in ("main", "rivals", *more)]
    lines += [line for other in worlds for line in evidence.finished(other).values()]
    origin = evidence.machines(lines)
    tables.report(table, f"lab/evidence_report.py, world {world}: {name}", markdown, sys.argv, origin=origin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    tables.markdown_option(parser)
    a = parser.parse_args()
    if drawn := [world for world in ("A", "B") if evidence.path_of(world).exists() and followed(world, 1)]:
        print("Wrote " + ", ".join(map(str, dose_figure(drawn, FIGURES / "dose"))))
    for world in ("A", "B"):
        if not evidence.path_of(world).exists():
            print(f"{evidence.path_of(world)}: no lines yet")
            continue
        report(world, "all methods", accuracies(world), a.markdown)
        report(world, "primary contrasts", primary(world), a.markdown)
        report(world, "other differences", described(world), a.markdown)
        report(world, "gain by how often the head follows the hand", doses(world), a.markdown)
        report(world, "gain within things that the head follows in half of the acts", within_things(world), a.markdown)
        print("Wrote " + ", ".join(map(str, figure(world, FIGURES / f"world-{world.lower()}"))))
    if not evidence.path_of("A").exists():
        return
    report("A", "Table 1", ablation("A"), a.markdown, "table 1")
    report("A", "gain of EgoDistill over VisOnly-Distill by verb (Figure 4)", classes("A"), a.markdown)
    report("A", "Table 2", teachers(), a.markdown, "table 2")
    if (table := teacher_curve()).rows:
        report("A", "teachers by the number of clips", table, a.markdown)
    more = (
        ("Table 4", frame_choices(), [], [evidence.OTHER_FRAMES]),
        ("controls", controls(), [], evidence.CONTROLS),
        ("what stage 1 gives", stage_1("A"), ["stage 1"], []),
    )
    for name, table, parts, worlds in more:
        if len(table.rows) > 1:  # more than what they are compared with
            report("A", name, table, a.markdown, *parts, worlds=worlds)


if __name__ == "__main__":
    main()
