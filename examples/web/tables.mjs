/* IMU tables, without a document. What `egodistill.data.read_imu()` refuses about times and units is refused, with its limits.

    const motion = readTables([{ name: "walk.csv", text }]);       // or one table for each sensor, or a .jsonl
    checkClock(motion, video.duration);                            // an error says that the times are not those of the video
    const { times, readings } = motion;                            // seconds, [ax, ay, az, gx, gy, gz] in m/s2 and rad/s */

import { valueAt } from "./stream.mjs";

const LAYOUTS = [ // the time, its unit in seconds, and the columns, in lower case
  ["milliseconds", 1e-3, ["acclx", "accly", "acclz", "gyrox", "gyroy", "gyroz"]],
  ["canonical_timestamp_ms", 1e-3, ["accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z"]],
  ["time", 1, ["ax", "ay", "az", "gx", "gy", "gz"]],
];
const FORM = '{"time": 1.25, "accel": [x, y, z], "gyro": [x, y, z]}';
const IN_DEGREES = "they are in degrees per second; multiply them by 0.0174533 for rad/s.";

/** Return the samples of one table, or of two (one for each sensor), in order of time. A value that is missing is NaN. */
export function readTables(files) {
  const rows = files.flatMap(({ name, text }) => {
    const read = /\.jsonl$/i.test(name) ? readLines : readTable;
    const found = read(name, text.replace(/^\uFEFF/, "").split(/\r?\n/));
    const usable = found.filter(({ time }) => Math.abs(time) < 1e6);
    if (usable.length < 2 && found.length >= 2) throw new Error(`${name}: its times are over eleven days from the video's start.`);
    return usable.map((row) => ({ ...row, name }));
  });
  rows.sort((a, b) => a.time - b.time);
  const sensors = ["accelerometer", "gyroscope"].map((sensor, which) => samplesOf(sensor, rows, which, files));
  for (const one of sensors) {
    checkRate(one);
    checkUnit(one);
  }
  checkTurns(...sensors);
  return { times: rows.map(({ time }) => time), readings: rows.map(({ reading }) => reading), sensors };
}

/** Raise an error if a sensor has no sample while the video plays. */
export function checkClock({ sensors }, duration) {
  for (const { sensor, name, times } of sensors) {
    if (times[0] <= duration && times[times.length - 1] >= 0) continue;
    const [first, last] = [times[0], times[times.length - 1]].map((time) => time.toFixed(1));
    throw new Error(
      `${name}: its ${sensor} samples are from ${first} to ${last} s, but the video from 0 to ${duration.toFixed(1)} s. ` +
        "Subtract from the times the one at which the video starts.",
    );
  }
}

// --- Files ------------------------------------------------------------------------------------------------------

function readTable(name, [header, ...lines]) {
  const names = header.split(",").map((cell) => cell.trim().replaceAll('"', "").toLowerCase());
  const layout = LAYOUTS.find(([time]) => names.includes(time));
  if (!layout) throw new Error(`${name}: no time column (${LAYOUTS.map(([time]) => time).join(", ")}) in its first line.`);
  const [time, unit, columns] = layout;
  const places = [time, ...columns].map((column) => names.indexOf(column));
  return lines.flatMap((line, i) => {
    if (!line.trim()) return [];
    const cells = line.split(",");
    const [moment, ...reading] = places.map((place) => (place < 0 ? NaN : numberIn(cells[place])));
    if (![moment, ...reading].includes(null)) return [{ time: unit * moment, reading }];
    throw new Error(`${name}: line ${i + 2} is not a row of numbers: "${line.slice(0, 80)}"; correct it or delete it.`);
  });
}

/** Return the number of a cell; NaN for an empty one, NULL and nan; null if there is none. */
function numberIn(cell) {
  if (cell === undefined) return null;
  if (/^\s*([-+]?(nan|inf|infinity)|null)?\s*$/i.test(cell)) return NaN;
  return Number.isNaN(Number(cell)) ? null : Number(cell);
}

/** Return the samples of JSON lines, such as the log of the page. Lines without a time are not samples. */
function readLines(name, lines) {
  let unit = 0;
  return lines.flatMap((line, i) => {
    if (!line.trim()) return [];
    try {
      const row = JSON.parse(line);
      if (Object.getPrototypeOf(row) !== Object.prototype) throw new Error("not an object");
      if (!("time" in row)) return [];
      unit ||= /"time"\s*:\s*-?\d+\s*[,}]/.test(line) ? 1e-9 : 1; // integers are nanoseconds
      const parts = [[row.time], row.accel ?? [NaN, NaN, NaN], row.gyro ?? [NaN, NaN, NaN]];
      const fits = parts.every((part, k) => part.length === (k ? 3 : 1) && part.every((x) => typeof x === "number"));
      if (!fits) throw new Error("three numbers");
      return [{ time: unit * row.time, reading: [...parts[1], ...parts[2]] }];
    } catch {
      throw new Error(`${name}: line ${i + 1} is not a sample such as ${FORM}: "${line.slice(0, 80)}"; correct it or delete it.`);
    }
  });
}

/** Return the samples of one sensor without repeated times: {sensor, name of its file, times, values}. */
function samplesOf(sensor, rows, which, files) {
  const part = ({ reading }) => reading.slice(3 * which, 3 * which + 3);
  const all = rows.filter((row) => part(row).every(Number.isFinite));
  const found = all.filter(({ time }, i) => time !== all[i - 1]?.time);
  if (found.length < 2) throw new Error(`${files.map(({ name }) => name).join(", ")}: fewer than two samples of the ${sensor}.`);
  return { sensor, name: found[0].name, times: found.map(({ time }) => time), values: found.map(part) };
}

// --- Times and units: the limits of imu.py ------------------------------------------------------------------------

const norm = (values) => Math.hypot(...values);
const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;

/** Return numbers at shares of their order, linearly interpolated. */
function quantiles(values, shares) {
  const sorted = Float64Array.from(values).sort();
  return shares.map((share) => {
    const place = share * (sorted.length - 1);
    const low = Math.floor(place);
    return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  });
}

function checkRate({ sensor, name, times }) {
  const [step] = quantiles(times.slice(1).map((time, i) => time - times[i]), [0.5]);
  if (step >= 5e-5 && step <= 0.2) return;
  throw new Error(
    `${name}: its ${sensor} samples are ${Number(step.toPrecision(3))} s apart, so its times are in another unit: the column time must ` +
      "be in seconds, Milliseconds and canonical_timestamp_ms in milliseconds, integers of a .jsonl in nanoseconds.",
  );
}

function checkUnit({ sensor, name, values }) {
  const norms = values.map(norm);
  const [low, middle] = quantiles(norms, [0.05, 0.5]);
  if (sensor === "gyroscope") {
    if (middle > 35) throw new Error(`${name}: half of the turn rates are above ${middle.toFixed(0)} rad/s, so ${IN_DEGREES}`);
    return;
  }
  const average = mean(norms);
  if (average === 0 || (average >= 2 && average <= 30) || low <= middle / 2) return;
  if (average > 30 && norms.filter((x) => x > 30).length < 0.05 * norms.length) return; // faults of the sensor
  const inG = (x) => x > 0.9 && x < 1.1;
  if (inG(middle)) {
    throw new Error(`${name}: the acceleration is in g (median ${middle.toFixed(2)}); multiply it by 9.80665 for m/s2.`);
  }
  if (inG(middle / 1000)) {
    const factors = "0.00980665 (mg) or 0.01 (cm/s2)";
    throw new Error(`${name}: the acceleration is in mg or cm/s2 (median ${middle.toFixed(0)}); multiply it by ${factors} for m/s2.`);
  }
}

/** Raise an error if the gyroscope turns so much further than gravity does that it is in degrees; see imu.py. */
function checkTurns(accel, gyro) {
  const enough = ({ times }) => times.length >= 100 && times[times.length - 1] - times[0] >= 1;
  if (![accel, gyro].every((one) => enough(one) && !isFrozen(one))) return;
  if (0.25 * Math.sqrt(mean(gyro.values.map((turn) => norm(turn) ** 2))) < 0.1) return;
  if (Math.abs(mean(accel.values.map(norm)) - 9.81) > 2) return;
  const cells = []; // of 0.25 s
  for (const [i, time] of accel.times.entries()) {
    const number = Math.floor(time / 0.25);
    if (cells.at(-1)?.number !== number) cells.push({ number, times: [], sum: [0, 0, 0] });
    const cell = cells.at(-1);
    cell.times.push(time);
    cell.sum = cell.sum.map((x, k) => x + accel.values[i][k]);
  }
  const angles = [[0, 0, 0]];
  for (let i = 1; i < gyro.times.length; i++) {
    const step = (gyro.times[i] - gyro.times[i - 1]) / 2;
    angles.push(angles[i - 1].map((x, k) => x + step * (gyro.values[i][k] + gyro.values[i - 1][k])));
  }
  const states = cells.map(({ number, times, sum }) => ({
    number,
    up: sum.map((x) => x / Math.max(norm(sum), 1e-12)),
    angle: [0, 1, 2].map((k) => valueAt(mean(times), gyro.times, angles, k)),
  }));
  const [expected, seen] = [[], []]; // squares of the changes of gravity, by the gyroscope and by the accelerometer
  states.forEach(({ number, up, angle }, i) => {
    const before = states[i - 1];
    if (before?.number !== number - 1) return;
    const [x, y, z] = up.map((one, k) => (one + before.up[k]) / 2);
    const [a, b, c] = angle.map((one, k) => one - before.angle[k]);
    expected.push(norm([y * c - z * b, z * a - x * c, x * b - y * a]) ** 2);
    seen.push(norm(up.map((one, k) => one - before.up[k])) ** 2);
  });
  if (seen.length < 8) return;
  const [turn, turned] = [expected, seen].map((squares) => Math.sqrt(mean(squares)));
  const times = turn / Math.max(turned, 1e-3);
  if (turn <= Math.max(0.1, 12 * turned) || times >= 65) return;
  const what = "those of the gravity that the accelerometer measures";
  throw new Error(`${gyro.name}: the turn rates are ${times.toFixed(0)} times ${what}, so ${IN_DEGREES}`);
}

/** Return whether a sensor repeats one reading for more than 5 s: then its turns say nothing about units. */
function isFrozen({ times, values }) {
  let first = 0;
  return times.some((time, i) => {
    if (i && (time - times[i - 1] > 1 || values[i].some((x, k) => x !== values[i - 1][k]))) first = i;
    return time - times[first] > 5;
  });
}
