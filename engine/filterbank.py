"""An IMU encoder of plain numbers: powers of head motion in bands of frequency, upright by gravity.

    from egodistill.engine.filterbank import IMUFilterbank

    encoder = IMUFilterbank(samples=422, rate=198.0)         # or EgoDistill(..., imu_encoder="filterbank")
    encoder(imu)                                             # float [B, 422, 6] -> [B, 192]
    encoder.names                                            # ["vertical acceleration, 0.47 Hz", ...]
    IMUFilterbank(signed=True)(imu)                          # [B, 390]: with those of an IMUSpectrum
    IMUFilterbank(known=6)(imu)                              # [B, 193]: and how unlike six classes it is, see refusal

Not from the paper. A sensor sits on each wearer as it likes, but gravity tells which way is up: u, the direction of the
mean acceleration of the clip. What is along u is vertical. Of the horizontal plane, the numbers use only what a turn
about u does not change, so none depends on how the sensor is mounted. The plane needs no axes: its power is that of all
three axes minus the vertical one.

Chosen on head motion of real wearers, see results/real_heads.md.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ..support.defaults import IMU_RATE, IMU_SAMPLES
from ..support.errors import NoteWarning
from .refusal import FAR, Refusal
from .spectrum import IMUSpectrum

__all__ = ["IMUFilterbank"]

RATE = 50.0  # Hz, at which the motion is analysed: activities of a head have little above 25 Hz
SEGMENT = 32 / 15  # seconds, of one spectrum: the length of the paper's clips
BANDS = 12
LAGS = 16  # of the autocorrelation
FIRST_LAG, LAST_LAG = 0.08, 1.05  # seconds
STEPS, REVERSALS = 0.25, (0.1, 0.4)  # seconds: lags from which on, and between which, extremes tell of steps
PORTION = 256  # clips whose numbers are computed at once
PART = 0.25  # seconds, in which energy and tilt are measured
NOISE = (1e-7, 1e-9)  # (m/s2)^2 and (rad/s)^2 of a band: below it, sensors hear themselves
FLOORS = (1e-2, 1e-3)  # m/s2 and rad/s in a part of the clip, for the same reason
SIGNALS = ("vertical acceleration", "horizontal acceleration", "turn about the vertical", "tilting turn")


class IMUFilterbank(nn.Module):
    """An IMU encoder without weights, [B, T, 6] -> [B, m]: what the head does, however the sensor is mounted.

    The m numbers, in the order of `names`; those of a clip longer than `SEGMENT` are means over its segments:

    - 48 log powers of vertical and horizontal acceleration, and of the turns about the vertical and the plane's axes,
      in 12 bands up to 25 Hz, log-spaced; of several segments, also their deviations.
    - 48 of acceleration against turn in the plane, in each band: real and imaginary part of the dot and of the cross
      product of their spectra, divided by their powers. A nod, a step and a bow have other phases.
    - of several segments, 48 coherences of what is vertical with what is in the plane.
    - 54 of the autocorrelations of the vertical acceleration, of all acceleration and of all turns: steps.
    - 12 of the shape of the four spectra: centre, width and entropy.
    - 4 of tilt, 2 of the net turn, 16 of the energy in parts of 0.25 s, 8 of the skewness and kurtosis.

    With `signed`, those of an `IMUSpectrum` follow, which has a direction for each axis: they can tell left from right,
    and need a sensor whose axes are known. `known` classes make the last output that of `refusal.Refusal`, which
    `EgoDistill.fuse()` makes the class "unsure". Batch norm keeps means and deviations on the training clips; what is
    more than six deviations away is clipped.

    >>> import torch
    >>> from egodistill.engine.filterbank import IMUFilterbank
    >>> encoder = IMUFilterbank()
    >>> encoder(torch.randn(2, 422, 6)).shape, encoder.names[0]
    (torch.Size([2, 192]), 'vertical acceleration, 0.47 Hz')
    """

    removes_mean = True  # `EgoDistill.encode_imu()` passes the samples as they are

    def __init__(
        self,
        samples: int = IMU_SAMPLES,
        rate: float = IMU_RATE,
        dropout: float = 0.5,
        signed: bool = False,
        known: int = 0,
    ) -> None:
        super().__init__()
        self.signed = IMUSpectrum(samples, rate, dropout=0.0) if signed else None
        self.step = max(1, round(rate / RATE))
        rate, self.steps = rate / self.step, samples // self.step
        length = min(self.steps, round(SEGMENT * rate))
        if length < 1.1 * rate or length < 2 * BANDS:
            raise ValueError(f"{samples} samples at {rate * self.step:.7g} Hz are too few for a filterbank; take 1.1 s")
        count = -(-self.steps // length)
        self.starts = [round(k * (self.steps - length) / max(1, count - 1)) for k in range(count)]
        self.length, self.part = length, round(PART * rate)
        frequencies = torch.arange(1, length // 2 + 1, dtype=torch.float64)
        self.bins = len(frequencies)
        edges = spaced(self.bins, BANDS)
        bands = torch.stack([(frequencies >= low) & (frequencies < high) for low, high in edges], 1)
        times = torch.arange(length, dtype=torch.float64)
        angles = 2 * math.pi * times[:, None] * frequencies / length
        window = torch.hann_window(length, False, dtype=torch.float64)
        first = round(FIRST_LAG * rate)
        lags = torch.arange(first, round(LAST_LAG * rate) + 1, dtype=torch.float64)
        chosen = torch.linspace(math.log(FIRST_LAG), math.log(LAST_LAG), LAGS).exp() * rate
        self.lags = sorted({round(lag) - first for lag in chosen.tolist()})
        self.late = round((STEPS - FIRST_LAG) * rate)
        self.early = slice(*(round((end - FIRST_LAG) * rate) for end in REVERSALS))
        waves = torch.cat([angles.cos(), -angles.sin()], 1) * window[:, None] / window.sum()
        kept = {"waves": waves, "bands": bands, "log": frequencies.log()}
        kept["correlation"] = (2 * math.pi * frequencies[:, None] * lags / length).cos()
        kept |= {"noise": torch.tensor(NOISE).repeat_interleave(2)[:, None], "floors": torch.tensor(FLOORS)}
        for name, values in kept.items():
            self.register_buffer(name, values.float(), persistent=False)
        self.names = self._names([(low + high - 1) / 2 * rate / length for low, high in edges], rate)
        self.norm = nn.BatchNorm1d(len(self.names), affine=False)
        self.any_axes = not signed
        self.refusal = Refusal(self.names, known) if known else None
        self.dim = len(self.names) + (self.signed.dim if self.signed else 0) + (known > 0)
        self.dropout = nn.Dropout(dropout)

    def forward(self, imu: Tensor) -> Tensor:
        if torch.is_autocast_enabled(imu.device.type):  # differences of powers need more than bf16's three digits
            with torch.autocast(imu.device.type, enabled=False):
                return self.forward(imu.float())
        numbers = self.numbers(imu)
        found = self.norm(numbers).clamp(-6, 6)
        found = self.dropout(torch.cat([found, self.signed(imu)], 1) if self.signed else found)
        return torch.cat([found, self.refusal(numbers)], 1) if self.refusal else found

    @torch.no_grad()
    def end_training(
        self, read: Callable[[np.ndarray], Tensor], labels: np.ndarray, groupings: Iterable[np.ndarray]
    ) -> None:
        """Fit the refusal, if there is one, to the labelled clips of a training, on the CPU.

        `read(rows)` returns samples [b, T, 6] of rows int64 [b], `labels` are int64 [n], -1 for none. Groups int64 [n]
        are wearers; recordings, or else segments, if no class has clips of two wearers. If these are too few, too, or a
        class has fewer than two clips, the refusal stays as it is, and a warning says so.
        """
        if self.refusal is None:
            return
        rows, own, reason = np.flatnonzero(labels >= 0), copy.deepcopy(self).cpu(), "no clip has a label"
        parts = np.split(rows, range(PORTION, len(rows), PORTION)) if len(rows) else []
        found = [own.numbers(read(part)) for part in parts]
        for groups in groupings if found else ():
            try:
                own.refusal.fit(torch.cat(found), torch.from_numpy(labels[rows]), torch.from_numpy(groups[rows]))
            except ValueError as error:
                reason = str(error)
            else:
                self.refusal.load_state_dict(own.refusal.state_dict())
                return
        kept = "no clip counts as unlike" if self.refusal.limit >= FAR else "it keeps what it had learned before"
        text = f'"unsure" does not learn what is unlike the training clips: {reason}; {kept}'
        warnings.warn(f"{text}. Add clips of a second wearer or recording", NoteWarning, stacklevel=3)

    def numbers(self, imu: Tensor) -> Tensor:
        """Return the numbers before they are normalised, without the signed ones, [B, T, 6] -> [B, m].

        Samples are in m/s2, gravity included, and rad/s.
        """
        motion = imu[:, : self.steps * self.step].unflatten(1, (self.steps, self.step)).mean(2).unflatten(2, (2, 3))
        up = motion[:, :, 0].mean(1)
        up = up / up.norm(dim=-1, keepdim=True).clamp_min(1e-6)  # [B, 3]
        return torch.cat([*self._spectral(motion, up), *self._temporal(motion, up)], 1)

    def _spectral(self, motion: Tensor, up: Tensor) -> list[Tensor]:
        """Return the numbers of frequencies, of motion [B, steps, 2, 3] and up [B, 3]."""
        parts = torch.stack([motion[:, start : start + self.length] for start in self.starts], 1)
        parts = (parts - parts.mean(2, keepdim=True)).flatten(3).transpose(2, 3)
        spectra = (parts @ self.waves).unflatten(3, (2, self.bins)).unflatten(2, (2, 3))  # [B, S, sensor, axis, 2, bin]
        along = (spectra * up[:, None, None, :, None, None]).sum(3)
        power, vertical = spectra.square().sum((3, 4)), along.square().sum(3)  # [B, S, sensor, bin]
        powers = torch.stack([vertical, (power - vertical).clamp_min(0)], 3).flatten(2, 3)  # as in SIGNALS
        mean = powers.mean(1)  # [B, signal, bin]
        banded = mean @ self.bands + self.noise
        found = [banded.log().flatten(1)]
        several = len(self.starts) > 1
        if several:
            found.append((powers @ self.bands + self.noise).log().std(1).flatten(1))
        found.append(self._planar(spectra, along, up, banded))
        if several:
            found.append(self._coherence(spectra, along, up, banded))
        turns = mean[:, 2] + mean[:, 3]
        for one, floor in ((mean[:, 0], NOISE[0]), (mean[:, 0] + mean[:, 1], NOISE[0]), (turns, NOISE[1])):
            lagged = (one @ self.correlation) / (one.sum(1, keepdim=True) + floor)
            ends = lagged[:, self.late :].amax(1, keepdim=True), lagged[:, self.early].amin(1, keepdim=True)
            found += [lagged[:, self.lags], *ends]
        shares = mean + self.noise / self.bins
        shares = shares / shares.sum(2, keepdim=True)
        centre = (shares * self.log).sum(2)
        width = (shares * (self.log - centre[:, :, None]).square()).sum(2)
        return [*found, centre, width, -(shares * shares.log()).sum(2)]

    def _planar(self, spectra: Tensor, along: Tensor, up: Tensor, banded: Tensor) -> Tensor:
        """Return dot and cross product of acceleration and turn in the plane, [B, 4 * bands]."""
        acceleration, turn = spectra.unbind(2)  # [B, S, axis, 2, bin]
        found = []
        for conjugated in (False, True):  # real part, imaginary part
            dot = multiplied(acceleration, turn, conjugated).sum(2)
            dot = dot - multiplied(along[:, :, 0], along[:, :, 1], conjugated)
            pairs = [(1, 2), (2, 0), (0, 1)]
            cross = [
                multiplied(acceleration[:, :, i], turn[:, :, j], conjugated)
                - multiplied(acceleration[:, :, j], turn[:, :, i], conjugated)
                for i, j in pairs
            ]
            found += [dot.mean(1), (torch.stack(cross, 2) * up[:, None, :, None]).sum(2).mean(1)]
        scale = (banded[:, 1] * banded[:, 3]).sqrt()
        return torch.cat([one @ self.bands / scale for one in found], 1)

    def _coherence(self, spectra: Tensor, along: Tensor, up: Tensor, banded: Tensor) -> Tensor:
        """Return how far what is vertical goes with what is in the plane, in each band, [B, 4 * bands]."""
        found = []
        for i in (0, 1):  # acceleration or turn, vertical
            for j in (0, 1):  # the same in the plane
                total = torch.zeros_like(banded[:, 0])
                for conjugated in (False, True):
                    both = multiplied(spectra[:, :, j], along[:, :, i, None], conjugated).mean(1) @ self.bands
                    total = total + both.square().sum(1) - (both * up[:, :, None]).sum(1).square()
                scale = banded[:, 2 * i] * banded[:, 2 * j + 1]
                found.append((total.clamp_min(0) / scale + 1e-6).sqrt())
        return torch.cat(found, 1)

    def _temporal(self, motion: Tensor, up: Tensor) -> list[Tensor]:
        """Return the numbers of time, of motion [B, steps, 2, 3] and up [B, 3]."""
        count = self.steps // self.part
        parts = motion[:, : count * self.part].unflatten(1, (count, self.part))  # [B, part, time, sensor, axis]
        means = parts.mean(2)
        vertical, plane = split(means, up)  # [B, part, sensor]
        tilts = plane[:, :, 0] + 0.01
        found = [tilts.mean(1).log(), tilts.amax(1).log(), (plane[:, :, 0].std(1) + 0.01).log()]
        found.append((vertical[:, :, 0].std(1) + 0.01).log())
        net, tilting = split(motion[:, :, 1].mean(1), up)
        found += [(net.abs() + 0.003).log(), (tilting + 0.003).log()]
        vertical, plane = split(parts - means[:, :, None], up)  # [B, part, time, sensor]
        for one in (vertical, plane):
            one = (one.square().mean(2) + self.floors.square()).log()  # energies, [B, part, sensor]
            found += [*one.mean(1).unbind(1), *one.std(1).unbind(1), *one.amax(1).unbind(1), *one.amin(1).unbind(1)]
        motion = torch.stack([motion[:, :, 0] - motion[:, :, 0].mean(1, keepdim=True), motion[:, :, 1]], 2)
        sizes = torch.cat([split(motion, up)[0], motion.square().sum(3).sqrt()], 2)  # [B, steps, 4]
        sizes = sizes - sizes.mean(1, keepdim=True)
        deviation = sizes.std(1) + self.floors.repeat(2) / 10
        skewness = sizes.pow(3).mean(1) / deviation.pow(3)
        return [torch.stack(found, 1), skewness, (sizes.pow(4).mean(1) / deviation.pow(4) + 1).log()]

    def _names(self, frequencies: list[float], rate: float) -> list[str]:
        """Return what each number is, given the centres of the bands in Hz and the rate of the steps."""
        bands = [f"{frequency:.2g} Hz" for frequency in frequencies]
        several = ["", " over segments"][: 1 + (len(self.starts) > 1)]
        names = [f"{signal}{more}, {band}" for more in several for signal in SIGNALS for band in bands]
        products = [f"{part} part of the {one} product" for part in ("real", "imaginary") for one in ("dot", "cross")]
        names += [f"{product} of acceleration and turn in the plane, {band}" for product in products for band in bands]
        if len(several) > 1:
            pairs = [(up, flat) for up in SIGNALS[::2] for flat in SIGNALS[1::2]]
            names += [f"coherence of {up} and {flat}, {band}" for up, flat in pairs for band in bands]
        first = round(FIRST_LAG * rate)
        lags = [f"at {(lag + first) / rate:.2f} s" for lag in self.lags] + ["at most", "at least"]
        names += [f"autocorrelation of {one} {lag}" for one in (SIGNALS[0], "acceleration", "turns") for lag in lags]
        names += [
            f"{what} of the spectrum of {signal}" for what in ("centre", "width", "entropy") for signal in SIGNALS
        ]
        names += [f"tilt, {what}" for what in ("mean", "largest", "deviation")]
        names += ["deviation of the vertical", "net turn", "net tilting turn"]
        kinds = ("mean", "deviation", "largest", "smallest")
        orders = [(SIGNALS[0], SIGNALS[2]), (SIGNALS[1], SIGNALS[3])]
        names += [f"energy of {signal}, {kind}" for pair in orders for kind in kinds for signal in pair]
        sizes = (SIGNALS[0], SIGNALS[2], "size of acceleration", "size of turns")
        return names + [f"{what} of {size}" for what in ("skewness", "kurtosis") for size in sizes]


def spaced(count: int, bands: int) -> list[tuple[int, int]]:
    """Return (first, one after the last) frequency of each band, log-spaced over 1 ... count, at least one in each."""
    edges = [1]
    for left in range(bands, 0, -1):
        edges.append(max(edges[-1] + 1, round(edges[-1] * ((count + 1) / edges[-1]) ** (1 / left))))
    return list(itertools.pairwise(edges))


def multiplied(one: Tensor, other: Tensor, imaginary: bool) -> Tensor:
    """Return the real or imaginary part of one times the conjugate of another; [..., 2, bin] -> [..., bin]."""
    (a, b), (c, d) = one.unbind(-2), other.unbind(-2)
    return b * c - a * d if imaginary else a * c + b * d


def split(vectors: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Return what of vectors [B, ..., 3] is along up [B, 3], and the size of the rest, [B, ...] each."""
    up = up[(slice(None), *[None] * (vectors.ndim - 2))]
    along = (vectors * up).sum(-1)
    return along, (vectors - along[..., None] * up).square().sum(-1).sqrt()
