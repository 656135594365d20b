/* The page: a phone's camera and motion sensors, or a video with its IMU table, into a `Stream`, and its answers shown.

    index.html?student=student.onnx                              the pair in this folder, by its name in `export --out`
    index.html?student=student.onnx&video=walk.mp4&imu=walk.csv  a video and a table in this folder */

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
import { Phone } from "./motion.mjs";
import { get, openPair } from "./pair.mjs";
import { Stream, Tracker } from "./stream.mjs";
import { checkClock, readTables } from "./tables.mjs";

const EVERY = 0.5; // seconds between answers
const LOG_SECONDS = 600; // of the log; it ends then
const LOG_BYTES = 1 << 27; // of its pictures
const SHOWN = 4; // seconds of head motion
const WAIT = 3; // seconds for the first sample of a sensor
const KEPT = 10; // lines of a list
const MOTION_RANGE = 3; // rad/s

const part = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);

let pair = null;
let source = null; // of samples and pictures: a `Camera` or a `Film`, with a <video> and a session of its own
let opening = null; // the source that comes next

// --- Messages ----------------------------------------------------------------------------------------------------

/** Show a sentence about what is missing; "" takes it away. */
function say(text) {
  part("message").textContent = text;
}

const CAMERA_ERRORS = {
  NotAllowedError: "The camera was refused. Allow it for this page in the browser's settings, then load the page again.",
  NotFoundError: "There is no camera. Open a video with its IMU table instead.",
  NotReadableError: "The camera does not open: another program uses it, or it is switched off.",
  OverconstrainedError: "No camera fits what this page asks for.",
};
const INSECURE =
  "A browser gives camera and motion to https pages and to localhost only. For a phone, start serve.py with --certificate, " +
  "or on Android use `adb reverse tcp:8000 tcp:8000` and open http://localhost:8000. A video with its IMU table works here.";
const NO_MOTION =
  "No motion sensor answers, so there are no labels. A computer has none: open a video with its IMU table instead. On a phone, " +
  "allow motion sensors for this page in the browser's settings.";
const PICTURES_ALONE = "No motion sensor answers, so labels are from pictures alone.";
const NOT_THERE = "Is its name right? It must be in the folder that is served.";
const MOTION_REFUSED = "Motion was refused. On an iPhone, load the page again, tap Start and tap Allow.";

// --- A session: one stream, its log, and what is shown --------------------------------------------------------------

/** What the page received and answered, as JSON lines that Python reads; see compare.py. */
class Log {
  constructor(header) {
    this.entries = [{ log: "egodistill web 1", ...header }];
    this.newest = null; // time since the last reset
    this.seconds = 0;
    this.bytes = 0;
    this.full = false;
  }

  /** Add an entry. The times after one without a time may be anywhere. */
  add(entry, time = null) {
    if (time !== null) this.seconds += Math.max(0, time - (this.newest ?? time));
    this.newest = time === null ? null : Math.max(time, this.newest ?? time);
    this.bytes += entry.picture?.length ?? 0;
    this.full ||= this.seconds > LOG_SECONDS || this.bytes > LOG_BYTES;
    if (!this.full) this.entries.push(entry);
  }

  /** Return its lines. Answers that are being computed are left out. */
  lines() {
    return this.entries.filter((entry) => !entry.answer || entry.answer.done).map(lineOf);
  }
}

function lineOf({ sample, picture, answer, ...rest }) {
  if (sample) {
    // Decimals: a time without is one in nanoseconds.
    const sensors = [["accel", sample.reading.slice(0, 3)], ["gyro", sample.reading.slice(3)]];
    const there = sensors.filter(([, values]) => values.every(Number.isFinite));
    return `{"time": ${[sample.time.toFixed(6), ...there.map(([name, xyz]) => `"${name}": ${JSON.stringify(xyz)}`)].join(", ")}}`;
  }
  if (picture) return JSON.stringify({ frame: rest.time, rgb: base64(picture) });
  if (!answer) return JSON.stringify(rest);
  const { start, stop, classes, problem, inputs, ages, encoded, frameMs, motionMs } = answer;
  const times = { frame_age: ages, encoded, frame_ms: frameMs, motion_ms: motionMs };
  return JSON.stringify({ answer: stop, start, classes, problem, inputs, ...times });
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
}

/** Numbers of the last minute: looks, answers, samples. */
class Rates {
  constructor() {
    this.looks = [];
    this.answers = [];
    this.samples = [];
    this.began = null;
  }

  note(kind, time) {
    this.began ??= time;
    this[kind].push(time);
    const span = kind === "samples" ? SHOWN : 60;
    while (this[kind][0] < time - span) this[kind].shift();
  }

  /** Return how many of a kind there were a second. */
  perSecond(kind, now) {
    const span = Math.min(kind === "samples" ? SHOWN : 60, now - this.began);
    return span > 0 ? this[kind].filter((time) => time >= now - span).length / span : 0;
  }
}

/** The stream of a source, its log, and what is shown of it. */
class Session {
  constructor(kind) {
    const header = { source: kind, student: pair.student, precision: pair.precision, every: EVERY, browser: navigator.userAgent };
    this.log = new Log(header);
    this.rates = new Rates();
    this.tracker = Tracker.of(pair.events, EVERY);
    this.recent = []; // samples that are drawn
    this.origin = null; // time of the first sample
    this.busy = false;
    this.times = { frame: [], motion: [] };
    this.stream = new Stream(pair, { every: EVERY, onTake: (answer) => this.log.add({ answer }, answer.stop) });
    this.canvas = new OffscreenCanvas(pair.spec.size, pair.spec.size);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.context.imageSmoothingQuality = "high";
  }

  addSample(sample) {
    this.origin ??= sample.time;
    this.log.add({ sample }, sample.time);
    this.rates.note("samples", sample.time);
    this.recent.push(sample);
    while (this.recent[0].time < sample.time - SHOWN) this.recent.shift();
    this.stream.acceptMotion([sample.time], [sample.reading]);
    this.run();
  }

  /** Look at the picture of a video if the stream wants one. */
  addFrame(time, video) {
    if (!this.stream.wantsFrame(time)) return;
    const picture = this.scaled(video);
    this.log.add({ picture, time }, time);
    this.rates.note("looks", time);
    this.stream.acceptFrame(time, picture);
    showLook(this.canvas, time);
    this.run();
  }

  /** Return the present picture in the model's size: all of it, or its middle for a student that crops. */
  scaled(video) {
    const { size, crop } = pair.spec;
    const { videoWidth: width, videoHeight: height } = video;
    const scale = size / Math.min(width, height);
    const [w, h] = [width, height].map((side) => (crop ? Math.round(side * scale) : size)); // as `Scaler` of video.py
    this.context.drawImage(video, -((w - size) >> 1), -((h - size) >> 1), w, h);
    const { data } = this.context.getImageData(0, 0, size, size);
    const planes = new Uint8Array(3 * size * size);
    for (let i = 0; i < size * size; i++) {
      for (let k = 0; k < 3; k++) planes[k * size * size + i] = data[4 * i + k];
    }
    return planes;
  }

  reset() {
    this.log.add({ reset: true });
    this.stream.reset();
    this.tracker = Tracker.of(pair.events, EVERY);
    this.rates = new Rates();
    this.recent = [];
    delete part("look").dataset.time;
  }

  /** Compute what is due, in one run at a time. */
  async run() {
    if (this.busy || !this.stream.due) return;
    this.busy = true;
    try {
      while (this.stream.due) for (const answer of await this.stream.results()) this.show(answer);
    } catch (error) {
      if (source?.session === this) {
        say(`The networks failed: ${error.message}`);
        stop();
      }
    }
    this.busy = false;
  }

  show(answer) {
    answer.done = true;
    if (source?.session !== this) return;
    this.rates.note("answers", answer.stop);
    if (answer.classes.length) this.times[answer.encoded ? "frame" : "motion"].push(answer.frameMs + answer.motionMs);
    for (const times of Object.values(this.times)) if (times.length > 100) times.shift();
    const origin = this.origin ?? this.stream.anchor; // which is that of a frame while no sample has come
    showAnswer(answer, origin);
    for (const event of this.tracker.add(answer)) {
      const [from, to] = [event.start - origin, event.stop - origin].map((time) => time.toFixed(1));
      addLine("events", `${from} to ${to} s · ${event.label} · ${percent(event.score)}`);
    }
  }
}

// --- What is shown -------------------------------------------------------------------------------------------------

const percent = (share) => `${(100 * share).toFixed(0)} %`;

function addLine(list, text) {
  const item = document.createElement("li");
  item.textContent = text;
  part(list).prepend(item);
  while (part(list).children.length > KEPT) part(list).lastChild.remove();
}

/** Take away what is shown of an earlier source. */
function showNothing() {
  for (const id of ["events", "history"]) part(id).replaceChildren();
  part("label").textContent = "–";
  part("detail").textContent = "\u00A0";
  part("confidence").value = part("collected").value = 0;
  showCollecting(true);
  part("look").width = 0;
  delete part("look").dataset.time;
}

/** Show, or no longer, that head motion is collected: the bar takes the place of the confidence. */
function showCollecting(collects) {
  part("collecting").hidden = !collects;
  part("confidence").hidden = collects;
}

function showAnswer(answer, origin) {
  const [[label, score] = ["–", 0]] = answer.classes;
  const age = answer.ages.length ? `picture ${Math.max(...answer.ages).toFixed(1)} s old` : "no picture";
  part("label").textContent = label;
  part("confidence").value = score;
  const still = answer.inputs.includes("frames") && !answer.inputs.includes("imu") ? ", no head motion" : "";
  part("detail").textContent = answer.problem ?? `${percent(score)}, ${age}${still}`;
  const took = `${(answer.frameMs + answer.motionMs).toFixed(0)} ms`;
  const found = answer.problem ?? `${label} · ${percent(score)} · ${took}`;
  addLine("history", `${(answer.stop - origin).toFixed(1)} s · ${found}`);
}

function showLook(canvas, time) {
  const look = part("look");
  [look.width, look.height] = [canvas.width, canvas.height];
  look.getContext("2d").drawImage(canvas, 0, 0);
  look.dataset.time = time;
}

function median(values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

/** Draw head motion and numbers: five times a second while a source runs. */
function showState() {
  if (!source) return;
  const { rates, times, recent, stream } = source.session;
  const now = recent.at(-1)?.time ?? stream.newestFrame;
  if (!Number.isFinite(now)) return;
  showCollecting(source.running && !rates.answers.length);
  part("collected").value = (now - (stream.anchor ?? now)) / pair.spec.seconds;
  const looks = rates.perSecond("looks", now);
  const { frame, motion } = pair.multiplyAdds;
  const adds = looks * frame + rates.perSecond("answers", now) * motion;
  part("looks").textContent = (60 * looks).toFixed(0);
  part("adds").textContent = Number.isFinite(adds) ? `${(adds / 1e6).toFixed(adds < 1e7 ? 1 : 0)} million` : "not in the export";
  for (const [id, values] of [["frameMs", times.frame], ["motionMs", times.motion]]) {
    if (values.length) part(id).textContent = `${median(values).toFixed(0)} ms (median)`;
  }
  part("rate").textContent = rates.perSecond("samples", now).toFixed(0);
  part("looked").textContent = part("look").dataset.time
    ? `the last picture looked at, ${Math.max(0, now - part("look").dataset.time).toFixed(1)} s ago`
    : "the last picture looked at";
  const canvas = part("motion");
  [canvas.width, canvas.height] = [canvas.clientWidth * devicePixelRatio, canvas.clientHeight * devicePixelRatio];
  const pen = canvas.getContext("2d");
  pen.lineWidth = 1.5 * devicePixelRatio;
  ["#d33", "#2a2", "#38f"].forEach((colour, axis) => {
    pen.strokeStyle = colour;
    pen.beginPath();
    for (const { time, reading } of recent) {
      const x = canvas.width * (1 - (now - time) / SHOWN);
      pen.lineTo(x, (canvas.height / 2) * (1 - reading[3 + axis] / MOTION_RANGE));
    }
    pen.stroke();
  });
}

// --- Sources -------------------------------------------------------------------------------------------------------

/** Return a <video> that takes the place of the present one when its source opens. */
function newVideo() {
  return Object.assign(document.createElement("video"), { id: "video", muted: true, playsInline: true, preload: "auto" });
}

/** Call `use(about)` for each picture of a source, until it is closed. */
function eachFrame(from, use) {
  from.video.requestVideoFrameCallback((now, about) => {
    if (!from.running) return;
    use(about);
    eachFrame(from, use);
  });
}

/** A phone: its back camera, and its motion sensors, on the clock of the page. */
class Camera {
  constructor() {
    this.video = newVideo();
    this.session = new Session("camera");
  }

  /** Ask for camera and motion; an error says what is missing. Call it from a tap: an iPhone asks for motion only then. */
  async open() {
    if (!isSecureContext || !navigator.mediaDevices) throw new Error(INSECURE);
    const asks = typeof DeviceMotionEvent === "undefined" ? null : DeviceMotionEvent.requestPermission;
    if (asks && (await asks.call(DeviceMotionEvent).catch(() => "denied")) !== "granted") throw new Error(MOTION_REFUSED);
    try {
      const wanted = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
      this.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    } catch (error) {
      throw new Error(CAMERA_ERRORS[error.name] ?? `The camera does not open: ${error.message}`);
    }
  }

  async start() {
    const { video, session } = this;
    video.srcObject.getVideoTracks()[0].addEventListener("ended", () => {
      if (!this.running) return;
      stop();
      say("The camera has ended. Tap Start to open it again.");
    });
    this.phone = new Phone();
    this.listener = (event) => {
      for (const sample of this.phone.read(event, screen.orientation?.angle ?? 0)) session.addSample(sample);
    };
    addEventListener("devicemotion", this.listener);
    setTimeout(() => {
      if (this.running && session.origin === null) say(pair.optionalInputs ? PICTURES_ALONE : NO_MOTION);
    }, 1000 * WAIT);
    this.keepAwake();
    await video.play();
    eachFrame(this, (about) => {
      // Chromium has the time of the exposure; elsewhere that of the call is the nearest.
      session.addFrame((about.captureTime ?? performance.now()) / 1000, video);
    });
  }

  /** Ask that the screen stays on. A browser forgets it when the page is hidden. */
  async keepAwake() {
    if (!this.running) return;
    const lock = await navigator.wakeLock?.request("screen").catch(() => null);
    if (this.running) this.lock = lock;
    else lock?.release();
  }

  /** Release camera, sensors and screen. */
  close() {
    this.running = false;
    removeEventListener("devicemotion", this.listener);
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.lock?.release();
    this.lock = null;
  }
}

/** A video with its IMU table, on the clock of the video. */
class Film {
  constructor(file, motion) {
    Object.assign(this, { file, motion, next: 0 });
    this.video = newVideo();
    this.session = new Session("video");
  }

  /** Load the video; an error says why it does not play, or that the table is not on its clock. */
  async open() {
    const { video, file } = this;
    video.src = file.address ?? URL.createObjectURL(file);
    const events = ["loadeddata", "error"].map((name) => new Promise((resolve) => video.addEventListener(name, resolve)));
    if ((await Promise.race(events)).type === "error") {
      if (file.address) await get(file.address, NOT_THERE, { method: "HEAD" });
      const way = "H.264 in an .mp4 plays everywhere; `egodistill transcode` makes one.";
      throw new Error(`${file.name}: this browser cannot play the video. ${way}`);
    }
    checkClock(this.motion, video.duration);
  }

  start() {
    const { video } = this;
    video.controls = true;
    video.onseeking = () => this.seek();
    eachFrame(this, (about) => this.feed(about.mediaTime));
    return video.play();
  }

  /** Give the samples up to a picture, and the picture. */
  feed(time) {
    const { session, motion } = this;
    for (; motion.times[this.next] <= time; this.next++) {
      session.addSample({ time: motion.times[this.next], reading: motion.readings[this.next] });
    }
    session.addFrame(time, this.video);
  }

  seek() {
    this.next = this.motion.times.findIndex((time) => time >= this.video.currentTime);
    if (this.next < 0) this.next = this.motion.times.length;
    this.session.reset();
  }

  close() {
    const { src } = this.video;
    this.running = false;
    this.video.onseeking = null;
    this.video.removeAttribute("src");
    this.video.load(); // else it plays on
    URL.revokeObjectURL(src);
  }
}

/** Put a source in the place of the present one once it opens, unless another was asked for meanwhile. */
async function use(fresh) {
  opening = fresh;
  part("stop").disabled = false;
  try {
    await fresh.open();
    if (fresh !== opening) return fresh.close();
    source?.close();
    source = fresh;
    source.running = true;
    part("video").replaceWith(fresh.video);
    showNothing();
    say("");
    part("download").disabled = false;
    await fresh.start();
  } catch (error) {
    if (fresh !== source) fresh.close(); // the present one stays
    if (fresh !== opening) return;
    say(error.message);
    part("stop").disabled = !source?.running;
  }
}

/** Open a video and its tables among files {name: text or address}. */
async function openFiles(files) {
  if (!pair) return say("No student is loaded, so no video can be opened. Open index.html?student=NAME.onnx; README.md says how.");
  const isTable = (file) => /\.(csv|jsonl)$/i.test(file.name);
  const [tables, films] = [files.filter(isTable), files.filter((file) => !isTable(file))];
  if (films.length !== 1 || !tables.length || tables.length > 2) {
    return say("Choose one video together with its IMU table (.csv or .jsonl), or with one table for each sensor.");
  }
  try {
    const texts = await Promise.all(tables.map(async (file) => ({ name: file.name, text: await file.text() })));
    await use(new Film(films[0], readTables(texts)));
  } catch (error) {
    say(error.message);
  }
}

/** Release what a source uses, also one that is opening. What it has shown and logged stays. */
function stop() {
  opening = null;
  source?.close();
  showCollecting(false);
  part("stop").disabled = true;
}

// --- The page ------------------------------------------------------------------------------------------------------

part("start").addEventListener("click", () => use(new Camera()));
part("files").addEventListener("change", ({ target }) => {
  openFiles([...target.files]);
  target.value = ""; // else the same files cannot be chosen again
});
part("stop").addEventListener("click", stop);
part("download").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([source.session.log.lines().join("\n"), "\n"], { type: "application/jsonl" }));
  link.download = "egodistill-log.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  if (source.session.log.full) say(`The log ended after ${LOG_SECONDS / 60} minutes, or 128 MB of pictures; start again for a new one.`);
});
const drop = document.documentElement;
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  part("drop").classList.add("over");
});
drop.addEventListener("dragleave", () => part("drop").classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  openFiles([...event.dataTransfer.files]);
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") source?.keepAwake?.();
});
setInterval(showState, 200);

async function main() {
  if (!part("video").requestVideoFrameCallback || !globalThis.OffscreenCanvas) {
    return say("This browser is too old: it has no requestVideoFrameCallback, or no OffscreenCanvas.");
  }
  ort.env.wasm.proxy = true; // in a worker: while the page waits for a network, it would lose motion events
  try {
    pair = await openPair(ort, query.get("student") ?? "student.onnx");
  } catch (error) {
    part("student").textContent = "No student is loaded.";
    return say(error.message);
  }
  const { numThreads } = ort.env.wasm; // one where a page is not isolated; serve.py does it
  const counts = [[pair.spec.frames, "frame"], [numThreads, "thread"]].map(([n, what]) => `${n} ${what}${n === 1 ? "" : "s"}`);
  const names = pair.classNames ? `${pair.classNames.length} classes` : "classes without names";
  const files = pair.files.map(({ name, bytes }) => `${name} (${Number((bytes / 1e6).toPrecision(3))} MB)`);
  part("student").textContent = `${files.join(" and ")}: ${[names, pair.precision, ...counts].join(", ")}.`;
  part("needed").textContent = pair.spec.seconds.toFixed(1);
  part("pictures").classList.toggle("crop", Boolean(pair.spec.crop));
  part("start").disabled = part("files").disabled = false;
  if (!isSecureContext) say(INSECURE);
  const given = ["video", "imu"].map((key) => query.get(key)).filter(Boolean);
  if (!given.length) return;
  openFiles(given.map((address) => ({ name: address, address, text: async () => (await get(address, NOT_THERE)).text() })));
}

main();
// For tests and benchmarks: what the page has received, and how it runs.
globalThis.egodistill = {
  log: () => source.session.log.lines(),
  stats: () => source.session.stream.stats,
  threads: () => ort.env.wasm.numThreads,
};
