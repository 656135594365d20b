/* Labels from head motion and frames as they arrive: the rules of `egodistill.Stream(model, frames="newest")`.

    const stream = new Stream(pair, { every: 0.5 });                       // a pair of pair.mjs
    stream.acceptMotion([time], [[ax, ay, az, gx, gy, gz]]);               // seconds, m/s2, rad/s; GoPro axes
    if (stream.wantsFrame(now)) stream.acceptFrame(time, picture);         // Uint8Array, RGB planes [3, size, size]
    for (const answer of await stream.results()) console.log(answer.stop, answer.classes[0]);

All times are seconds of one clock. Nothing here uses a document, a camera or a sensor, so it also runs in a worker and in
Node. A pair with `optionalInputs` answers with what it has, `answer.inputs`; while no samples come, frames are the clock.
Names and rules are those of deploy/stream.py, deploy/arrivals.py, deploy/events.py and imu.py. Left out, because
a browser's clock neither restarts nor jumps back: frames of the middle of a clip, restarts, and the health of inputs. */

const TOLERANCE = 1e-6; // s; an age of four steps of 0.5 s may be a little below 2.0
const ROUNDED = 1e-6; // s by which time stamps may be rounded
const AVERAGED = 1.5; // times the rate of a window: the samples of a faster sensor are averaged
const EARLY_FRAMES = 8; // that are kept before the first sample

// --- Windows of samples -----------------------------------------------------------------------------------------

/** Return the first place in sorted numbers whose value is not below x. */
function placeFrom(sorted, x) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Return the first place in sorted numbers whose value is above x. */
function placeAfter(sorted, x) {
  let place = placeFrom(sorted, x);
  while (sorted[place] === x) place++;
  return place;
}

/** Return a value between samples, linearly interpolated; the first or last one beyond them. */
export function valueAt(x, stamps, values, k) {
  const after = placeAfter(stamps, x);
  if (after === 0) return values[0][k];
  if (after === stamps.length) return values[after - 1][k];
  const share = (x - stamps[after - 1]) / (stamps[after] - stamps[after - 1]);
  return values[after - 1][k] + share * (values[after][k] - values[after - 1][k]);
}

/** Return which points of a grid are between two samples at most `maxGap` apart. */
function coveredPoints(stamps, grid, maxGap) {
  return grid.map((x) => {
    if (stamps.length < 2) return false;
    const after = Math.min(Math.max(placeFrom(stamps, x), 1), stamps.length - 1);
    const inside = stamps[after - 1] <= x && x <= stamps[after];
    return inside && stamps[after] - stamps[after - 1] <= maxGap + ROUNDED;
  });
}

/** Return samples [x, y, z] of one sensor at the points of a grid with `rate` points per second; see imu.py. */
function resample(stamps, values, grid, rate) {
  const end = grid[grid.length - 1];
  const count = placeAfter(stamps, end) - placeFrom(stamps, grid[0]);
  if (count <= AVERAGED * grid.length) return grid.map((x) => [0, 1, 2].map((k) => valueAt(x, stamps, values, k)));
  // A sensor that is much faster: each sample is shared between the two points beside it.
  const sums = grid.map(() => [0, 0, 0, 0, 0]); // weight, place, x, y, z
  const last = placeFrom(stamps, end + 1 / rate);
  for (let i = placeAfter(stamps, grid[0] - 1 / rate); i < last; i++) {
    const place = (stamps[i] - grid[0]) * rate;
    const before = Math.floor(place);
    for (const [point, weight] of [[before, 1 - (place - before)], [before + 1, place - before]]) {
      if (point < 0 || point >= grid.length) continue;
      [1, place, ...values[i]].forEach((x, k) => (sums[point][k] += weight * x));
    }
  }
  const seen = sums.filter((sum) => sum[0] > 0);
  const centres = seen.map((sum) => sum[1] / sum[0]);
  const means = seen.map((sum) => [2, 3, 4].map((k) => sum[k] / sum[0]));
  const found = grid.map((_, point) => [0, 1, 2].map((k) => valueAt(point, centres, means, k)));
  // The first and last point have no samples on one side.
  for (const [point, own, next] of [[0, 0, 1], [grid.length - 1, centres.length - 1, centres.length - 2]]) {
    const step = centres.length > 1 ? centres[next] - centres[own] : 0;
    const off = point - centres[own];
    if (!step || Math.abs(off) >= 0.5) continue;
    found[point] = means[own].map((mean, k) => mean + (off * (means[next][k] - mean)) / step);
  }
  return found;
}

/** The samples of one sensor in order of time: a buffer from which old samples are dropped. */
export class Sensor {
  constructor(name, slack) {
    Object.assign(this, { name, slack, times: [], values: [], first: Infinity, newest: -Infinity });
  }

  /** Add samples [time, x, y, z] in any order; drop those more than `slack` old and those of a time that is known. */
  add(samples) {
    const limit = this.newest - this.slack;
    for (const [time, ...reading] of samples) {
      if (time < limit) continue;
      let place = this.times.length;
      while (place > 0 && this.times[place - 1] >= time) place--;
      if (this.times[place] === time) continue;
      this.times.splice(place, 0, time);
      this.values.splice(place, 0, reading);
      this.first = Math.min(this.first, time);
      this.newest = Math.max(this.newest, time);
    }
  }

  /** Return whether there is a sample in a span of time. */
  hasBetween(start, stop) {
    return this.times[placeFrom(this.times, start)] <= stop;
  }

  /** Drop the samples that no window from a time on needs; the last one before it is needed. */
  forget(before) {
    const place = Math.max(placeAfter(this.times, before) - 1, 0);
    this.times.splice(0, place);
    this.values.splice(0, place);
  }

  /** Return the samples at the points of a grid; a text that says what is missing if too few points are covered. */
  window(grid, rate, minCoverage, maxGap) {
    const covered = coveredPoints(this.times, grid, maxGap);
    const share = covered.filter(Boolean).length / grid.length;
    if (share >= minCoverage) return resample(this.times, this.values, grid, rate);
    const end = grid[grid.length - 1];
    const span = `${grid[0].toFixed(2)} to ${end.toFixed(2)} s`;
    return `the ${this.name} covers ${(100 * share).toFixed(1)} % of ${span} (${100 * minCoverage} % required)`;
  }
}

// --- When to look -----------------------------------------------------------------------------------------------

/** Return the gate `Moved`: look while the head turns faster than `rate` rad/s (RMS of the last `seconds`). */
export function moved(rate = 1.5, seconds = 0.5, imuRate = 198) {
  return (window) => {
    const count = Math.min(Math.max(1, Math.round(seconds * imuRate)), window.length / 6);
    let sum = 0;
    for (let i = window.length - 6 * count; i < window.length; i += 6) {
      sum += window[i + 3] ** 2 + window[i + 4] ** 2 + window[i + 5] ** 2;
    }
    return Math.sqrt(sum / count) >= rate;
  };
}

// --- Answers ----------------------------------------------------------------------------------------------------

/** For how long no samples have come, as other times tell: those of frames, or of calls. */
class Silence {
  newest = -Infinity;
  before = -Infinity; // the last time alone proves nothing: it may be wrong
  piece = -Infinity; // the newest time when samples came last
  usual = []; // seconds from piece to piece

  note(moment) {
    this.before = this.newest;
    this.newest = Math.max(this.newest, moment);
  }

  noteSamples() {
    if (Number.isFinite(this.newest) && Number.isFinite(this.piece)) this.usual.push(this.newest - this.piece);
    if (this.usual.length > 8) this.usual.shift();
    this.piece = this.newest;
  }

  lasts(seconds) {
    const sorted = [...this.usual].sort((a, b) => a - b);
    const middle = sorted.length ? (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2 : 0;
    return this.before - this.piece > seconds + middle;
  }

  timeAfter(sample) {
    if (!Number.isFinite(sample + this.piece)) return this.newest;
    return Math.min(sample + this.newest - this.piece, Math.max(this.newest, sample));
  }
}

/** A stream of answers. `pair` is what `openPair()` returns: `spec`, `classNames`, `optionalInputs`, `encodeFrame()`, `fuse()`
    and `temperatureOf()`.

    Options, with the defaults of the Python class: `every`, `slack`, `maxAge`, `minCoverage`, `maxGap`, `period`,
    `cameraDelay`, `cameraTimeout`, `maxPending`, `maxJump`, `beforeFrames`, `top`; `gate(window, ages, stop)`, which is
    `moved()` for one frame and a `period` for several, unless one of the two is given; `onTake(answer)`, which is called when the samples
    and frames of an answer are settled: `classes` is filled in later, when the networks have run. */
export class Stream {
  constructor(pair, options = {}) {
    const given = {
      every: 0.5, slack: 0.05, maxAge: 4, minCoverage: 0.95, maxGap: 0.05, gate: null, period: null, cameraDelay: 0,
      cameraTimeout: null, maxPending: 2, maxJump: 2, beforeFrames: false, top: 5, onTake: () => {}, ...options,
    };
    const unknown = Object.keys(given).find((name) => !OPTIONS.has(name));
    if (unknown) throw new Error(`a stream has no option ${unknown}`);
    if (!(given.every > 0)) throw new Error(`every must be above 0 s; got ${given.every}`);
    if (given.gate && given.period) throw new Error("gate and period both say when to look; give one of them");
    Object.assign(this, given, { pair, spec: pair.spec });
    this.cameraTimeout ??= given.slack + Math.max(1, given.cameraDelay + 0.5);
    if (!given.gate && !given.period && this.spec.frames === 1) this.gate = moved(1.5, 0.5, this.spec.imu_rate);
    this.period ??= 2;
    this.computing = false;
    this.stats = { looks: 0, encoded: 0, given: 0, problems: 0, dropped: 0 };
    this.reset();
  }

  /** Forget samples, frames, requests and answers that are due, and accept a new recording; the counters stay. */
  reset() {
    this.sensors = ["accelerometer", "gyroscope"].map((name) => new Sensor(name, this.slack));
    Object.assign(this, { kept: [], pending: [], request: null, look: true, anchor: null, next: 0, hadFrames: false });
    Object.assign(this, { firstFrame: Infinity, newestFrame: -Infinity });
    this.silence = { frames: new Silence(), calls: new Silence() }; // of samples
    this.run = {}; // another object after each reset: an answer that is being computed belongs to the old one
  }

  /** Add samples: times [n], readings [n][6]. A sensor without three finite numbers has no sample at this time. */
  acceptMotion(times, readings) {
    const before = this.sensors.map((sensor) => sensor.newest);
    const order = [...times.keys()].filter((i) => Number.isFinite(times[i])).sort((a, b) => times[a] - times[b]);
    this.sensors.forEach((sensor, which) => {
      const samples = order.map((i) => [times[i], ...readings[i].slice(3 * which, 3 * which + 3)]);
      sensor.add(samples.filter((sample) => sample.every(Number.isFinite)));
    });
    if (this.sensors.some((sensor, which) => sensor.newest !== before[which])) {
      for (const silence of Object.values(this.silence)) silence.noteSamples();
    }
    this.update();
  }

  /** Add a frame in the model's size, RGB planes; it is dropped if no coming answer would use it. */
  acceptFrame(time, picture) {
    const length = 3 * this.spec.size ** 2;
    if (picture.length !== length) throw new Error(`a picture must have ${length} bytes; got ${picture.length}`);
    this.stats.looks++;
    if (this.request && time >= this.request.since) {
      this.request = null;
      this.look = false;
    }
    this.silence.frames.note(time);
    const place = placeFrom(this.kept.map((frame) => frame.time), time);
    if (this.kept[place]?.time === time) return;
    this.kept.splice(place, 0, { time, picture, feature: null });
    this.firstFrame = Math.min(this.firstFrame, time);
    this.newestFrame = Math.max(this.newestFrame, time);
    this.dropFrames();
    this.update();
  }

  /** Return whether to take a frame now; true once per request. */
  wantsFrame(now) {
    let since = now;
    this.silence.calls.note(now);
    const silent = this.nowWithoutSamples() !== null;
    if (silent) this.update();
    if (this.request) {
      if (now - this.request.last < this.cameraTimeout) return false;
      since = this.request.since;
      this.look ||= this.request.decided;
      this.request = null;
    }
    if (!this.needsLook(now + this.cameraDelay, silent)) return false;
    this.request = { since, last: now, decided: this.look };
    this.look = false;
    return true;
  }

  /** Return the time as frames and calls tell it, if no samples come; null if they do, or have to. */
  nowWithoutSamples() {
    if (!this.pair.optionalInputs) return null;
    const told = Object.values(this.silence).filter((one) => one.lasts(this.slack + this.every));
    const newest = Math.max(...this.sensors.map((sensor) => sensor.newest));
    return told.length ? Math.max(...told.map((one) => one.timeAfter(newest))) : null;
  }

  needsLook(moment, silent) {
    const newest = Math.max(-Infinity, ...this.kept.filter((frame) => frame.time <= moment).map((frame) => frame.time));
    let due = this.gate ? this.look : moment - newest >= this.period - TOLERANCE;
    if (silent) due ||= moment - newest >= this.every - TOLERANCE; // so frames are all that answers have
    if (!due && moment < this.replacement(newest)) return false;
    if (this.anchor === null) return true;
    const following = Math.max(this.firstOpen(), this.firstFrom(moment));
    return this.stop(following) - this.maxAge <= moment; // else it is too old for the next answer
  }

  /** Return when to take the frame that replaces one which becomes too old. */
  replacement(newest) {
    let end = newest + this.maxAge;
    if (this.anchor !== null && newest > -Infinity) end = this.stop(this.lastBefore(end) + 1);
    const early = Math.min(this.slack, this.every / 2) - this.cameraDelay / 2;
    return Math.max(end - this.every + early, end - this.maxAge);
  }

  /** Whether `results()` has something to compute. */
  get due() {
    return this.pending.length > 0;
  }

  /** Run the networks for the answers that are due, and return these, the oldest first. One call at a time. */
  async results() {
    if (this.computing) throw new Error("results() is running; wait for it");
    this.computing = true;
    try {
      const found = [];
      for (let left = this.pending.length; left > 0; left--) {
        const answer = await this.compute();
        if (answer) found.push(answer);
      }
      return found;
    } finally {
      this.computing = false;
    }
  }

  async compute() {
    if (!this.pending.length) return null;
    const { run } = this;
    const number = this.pending.shift();
    const [start, stop] = [this.start(number), this.stop(number)];
    const found = this.window(start);
    const window = typeof found === "string" ? null : found;
    const frames = this.kept.filter((frame) => frame.time <= stop).slice(-this.spec.frames);
    const used = frames.filter((frame) => frame.time >= stop - this.maxAge);
    const ages = used.map((frame) => stop - frame.time);
    const lacks = used.length < this.spec.frames;
    const few = this.spec.frames === 1 ? "no frame" : `${used.length} of ${this.spec.frames} frames`;
    this.hadFrames ||= !lacks;
    const motionAlone = window && this.pair.optionalInputs && (this.hadFrames || this.beforeFrames);
    const inputs = [...(lacks ? [] : ["frames"]), ...(window ? ["imu"] : [])];
    const enough = inputs.length === 2 || (lacks ? motionAlone : this.pair.optionalInputs);
    const problem = enough ? null : window ? `${few} of the last ${this.maxAge} s` : found;
    if (problem) inputs.length = 0;
    else if (lacks) used.length = ages.length = 0;
    const answer = { start, stop, classes: [], problem, inputs, ages, encoded: 0, frameMs: 0, motionMs: 0 };
    this.dropFrames();
    this.onTake(answer);
    if (!problem) await this.classify(answer, used, window);
    if (run !== this.run) {
      this.stats.dropped++;
      return null;
    }
    this.stats[problem ? "problems" : "given"]++;
    if (this.gate && window) {
      // A decision counts if it is about the newest frame.
      const later = this.kept.some((frame) => frame.time > stop);
      this.look ||= Boolean(this.gate(window, ages, stop)) && !later;
    }
    return answer;
  }

  async classify(answer, used, window) {
    const began = performance.now();
    for (const frame of used.filter((one) => one.feature === null)) {
      frame.feature = await this.pair.encodeFrame(frame.picture);
      frame.picture = null;
      answer.encoded++;
    }
    this.stats.encoded += answer.encoded;
    const encoded = performance.now();
    const logits = await this.pair.fuse(used.length ? used.map((frame) => frame.feature) : null, window);
    answer.frameMs = encoded - began;
    answer.motionMs = performance.now() - encoded;
    const { classNames, temperatureOf } = this.pair;
    const scores = softmax(logits, temperatureOf(answer.inputs)).map((score, k) => [classNames?.[k] ?? String(k), score]);
    answer.classes = scores.sort((a, b) => b[1] - a[1]).slice(0, this.top);
  }

  /** Return the IMU window of a clip, Float32Array [samples * 6]; a text if samples are missing. */
  window(start) {
    const { imu_samples: count, imu_rate: rate } = this.spec;
    const grid = Array.from({ length: count }, (_, i) => start + i / rate);
    const window = new Float32Array(6 * count);
    for (const [which, sensor] of this.sensors.entries()) {
      const found = sensor.window(grid, rate, this.minCoverage, this.maxGap);
      if (typeof found === "string") return found;
      found.forEach((reading, i) => window.set(reading, 6 * i + 3 * which));
    }
    return window;
  }

  // The grid of answers: answer k is about the clip from anchor + k * every on.

  start(number) {
    return this.anchor + number * this.every;
  }

  stop(number) {
    return this.start(number) + this.spec.seconds;
  }

  gridEnd(number) {
    return this.start(number) + (this.spec.imu_samples - 1) / this.spec.imu_rate;
  }

  /** Return the last answer that does not stop after a moment; -1 if there is none. */
  lastBefore(moment) {
    if (moment < this.stop(0)) return -1;
    let number = Math.floor((moment - this.stop(0)) / this.every) + 1;
    while (number >= 0 && this.stop(number) > moment) number--;
    return number;
  }

  /** Return the first answer that does not stop before a moment. */
  firstFrom(moment) {
    let number = Number.isFinite(moment) ? Math.max(Math.ceil((moment - this.stop(0)) / this.every) - 1, 0) : 0;
    while (this.stop(number) < moment) number++;
    return number;
  }

  firstOpen() {
    return this.pending.length ? this.pending[0] : this.next;
  }

  /** Note the answers that have become due, and forget the samples that no answer needs. */
  update() {
    if (this.anchor === null) this.setAnchor();
    if (this.anchor === null) return;
    const last = this.lastDue();
    for (; this.next <= last; this.next++) this.pending.push(this.next);
    this.stats.dropped += this.pending.splice(0, Math.max(this.pending.length - this.maxPending, 0)).length;
    for (const sensor of this.sensors) sensor.forget(this.start(this.firstOpen()) - 1 / this.spec.imu_rate);
  }

  /** Start the grid of answers at the first sample, once no earlier one can arrive. */
  setAnchor() {
    const present = this.sensors.filter((sensor) => Number.isFinite(sensor.first));
    if (!present.length && this.pair.optionalInputs) present.push({ first: this.firstFrame, newest: this.newestFrame });
    if (!present.length || present.some((sensor) => sensor.newest - this.slack < sensor.first)) return;
    const [one] = present; // which waits for the first sample of the other sensor
    if (present.length === 1 && one.newest - this.slack < one.first + this.maxJump) return;
    this.anchor = Math.max(...present.map((sensor) => sensor.first));
    this.dropFrames();
  }

  lastDue() {
    const marks = this.sensors.map((sensor) => sensor.newest - this.slack);
    const without = (this.nowWithoutSamples() ?? -Infinity) - this.slack - this.every;
    const first = Math.max(this.next - 1, this.lastBefore(Math.max(Math.max(...marks) - this.maxJump, without)));
    let last = this.lastBefore(Math.min(...marks));
    // The samples on both sides of the window's last point decide its value.
    while (last > first && !this.sensors.every((one, i) => one.hasBetween(this.gridEnd(last), marks[i]))) last--;
    return Math.max(last, first);
  }

  /** Drop the frames that no coming answer uses: too old, or with enough newer ones. */
  dropFrames() {
    if (this.anchor === null) {
      this.kept = this.kept.slice(-this.spec.frames - EARLY_FRAMES);
      return;
    }
    this.kept = this.kept.filter((frame, place) => {
      const stop = this.stop(Math.max(this.firstOpen(), this.firstFrom(frame.time)));
      const newer = this.kept[place + this.spec.frames];
      return stop - this.maxAge <= frame.time && (!newer || stop < newer.time);
    });
  }
}

const OPTIONS = new Set(
  "every slack maxAge minCoverage maxGap gate period cameraDelay cameraTimeout maxPending maxJump beforeFrames top onTake".split(" "),
);

function softmax(logits, temperature) {
  const highest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp((x - highest) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

// --- Events -----------------------------------------------------------------------------------------------------

/** Labels that do not flicker: `add(answer)` returns the events that have ended, `finish()` the last ones.

    An event begins when the probability of the best class reaches `start`, and ends when it falls below `end`. Events
    shorter than `minSeconds` are left out; those of one label at most `maxPause` seconds apart are joined. */
export class Tracker {
  constructor({ start = 0.6, end = 0.4, min_seconds: minSeconds = 1, max_pause: maxPause = 1 } = {}) {
    Object.assign(this, { start, end, minSeconds, maxPause, holds: null, ended: new Map(), last: null });
  }

  /** Return a tracker with thresholds of a model, if they hold for answers every so many seconds, or else the defaults. */
  static of(own, every) {
    return new Tracker(own && Math.abs(own.stride - every) <= ROUNDED ? own : {});
  }

  add(answer) {
    const { last } = this;
    if (!answer.classes.length) return [];
    const moment = middle(answer);
    const hole = last !== null && answer.start - last.stop > this.maxPause;
    const border = last === null || hole ? moment : (middle(last) + moment) / 2;
    const scores = new Map(answer.classes);
    const [best, score] = answer.classes[0];
    const begins = score >= this.start;
    const found = [];
    const now = this.holds;
    if (now) {
      const own = scores.get(now.label) ?? 0;
      if (hole || own < this.end || (begins && best !== now.label)) {
        found.push(...this.endAt(hole ? middle(last) : border));
      } else {
        now.stop = moment;
        now.score = Math.max(now.score, own);
      }
    }
    if (!this.holds) {
      found.push(...this.release(border));
      if (begins && best !== "(none)" && best !== "unsure") this.holds = { label: best, start: border, stop: moment, score };
    }
    this.last = answer;
    return found;
  }

  finish() {
    const found = this.holds ? this.endAt(middle(this.last)) : [];
    found.push(...this.release());
    this.last = null;
    return found;
  }

  /** End the part that holds, joined to an earlier one of its label; return the events that it completes. */
  endAt(moment) {
    const now = this.holds;
    this.holds = null;
    now.stop = moment;
    const found = this.release(now.start);
    const before = this.ended.get(now.label);
    if (before) {
      this.ended.delete(now.label);
      now.start = before.start;
      now.score = Math.max(before.score, now.score);
      for (const [label, part] of this.ended) if (part.stop > now.start) this.ended.delete(label);
    }
    if (this.lasts(now)) found.push(...this.release());
    this.ended.set(now.label, now);
    return found;
  }

  /** Forget all ended parts, or those that no part from a moment on can extend; return the events among them. */
  release(moment = Infinity) {
    const old = [...this.ended.values()].filter((part) => moment - part.stop > this.maxPause);
    for (const part of old) this.ended.delete(part.label);
    return old.filter((part) => this.lasts(part));
  }

  lasts(part) {
    return part.stop - part.start >= this.minSeconds - ROUNDED;
  }
}

function middle(answer) {
  return answer.start + (answer.stop - answer.start) / 2;
}
