/* Head motion in the axes of a GoPro (X to the left, Y to the user, Z up), in m/s2 and rad/s, without a document.

    const phone = new Phone();
    addEventListener("devicemotion", (event) => {
      for (const { time, reading } of phone.read(event, screen.orientation.angle)) stream.acceptMotion([time], [reading]);
    });
    const { times, readings } = readTables([{ name: "walk.csv", text }]);

The axes of a phone are X to the right, Y up along its screen and Z out of the screen, as it is held in portrait; they do
not turn with the picture. The camera on the back looks along -Z. */

const RADIANS = Math.PI / 180;
const FIRST = 0.5; // seconds of samples that decide the sign of gravity

/** Return a reading of a phone [ax, ay, az, gx, gy, gz] in GoPro axes; `angle`: degrees by which the screen is turned. */
export function inGoProAxes(reading, angle = 0) {
  const [cos, sin] = [Math.round(Math.cos(angle * RADIANS)), Math.round(Math.sin(angle * RADIANS))];
  const turn = ([x, y, z]) => [sin * y - cos * x, z, sin * x + cos * y];
  return [...turn(reading.slice(0, 3)), ...turn(reading.slice(3))];
}

/** The motion events of a phone as samples.

    Phones differ in the sign of the whole acceleration: lying on its back at rest, one reads +9.8 along Z by the standard,
    an iPhone -9.8. So the first half second decides: a phone that is worn upright, or lies on its back, must read gravity
    upwards. Its samples are returned together. */
export class Phone {
  constructor() {
    this.sign = 0; // not known yet
    this.first = [];
  }

  /** Return the samples that an event completes, [{time, reading}], in seconds of its clock. */
  read(event, angle = 0) {
    const { accelerationIncludingGravity: accel, rotationRate: turn } = event;
    const values = [accel?.x, accel?.y, accel?.z, turn?.alpha, turn?.beta, turn?.gamma];
    if (!values.every(Number.isFinite)) return [];
    const degrees = values.map((value, k) => (k < 3 ? value : value * RADIANS));
    const sample = { time: event.timeStamp / 1000, reading: inGoProAxes(degrees, angle) };
    if (this.sign) return [this.signed(sample)];
    this.first.push(sample);
    if (sample.time - this.first[0].time < FIRST) return [];
    const upwards = this.first.reduce((sum, { reading }) => sum + reading[1] + reading[2], 0);
    this.sign = upwards < 0 ? -1 : 1;
    return this.first.splice(0).map((one) => this.signed(one));
  }

  signed({ time, reading }) {
    return { time, reading: reading.map((value, k) => (k < 3 ? this.sign * value : value)) };
  }
}

const LAYOUTS = [ // the time, its unit in seconds, and the columns, in lower case: as `egodistill.data.read_imu()`
  ["milliseconds", 1e-3, ["acclx", "accly", "acclz", "gyrox", "gyroy", "gyroz"]],
  ["canonical_timestamp_ms", 1e-3, ["accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z"]],
  ["time", 1, ["ax", "ay", "az", "gx", "gy", "gz"]],
];

/** Return the samples of one table, of two (one for each sensor), or of a log of this page, in order of time. */
export function readTables(files) {
  const rows = files.flatMap(({ name, text }) => (text.startsWith("{") ? readLog(text) : readTable(name, text)));
  for (const [which, sensor] of ["accelerometer", "gyroscope"].entries()) {
    if (!rows.some(([, reading]) => reading.slice(3 * which, 3 * which + 3).every(Number.isFinite))) {
      throw new Error(`${files.map(({ name }) => name).join(", ")}: no samples of the ${sensor}.`);
    }
  }
  rows.sort((a, b) => a[0] - b[0]);
  return { times: rows.map(([time]) => time), readings: rows.map(([, reading]) => reading) };
}

function readTable(name, text) {
  const [header, ...lines] = text.replace(/^\uFEFF/, "").split(/\r?\n/);
  const names = header.split(",").map((cell) => cell.trim().replaceAll('"', "").toLowerCase());
  const layout = LAYOUTS.find(([time]) => names.includes(time));
  if (!layout) throw new Error(`${name}: no time column (${LAYOUTS.map(([time]) => time).join(", ")}) in its first line.`);
  const [time, unit, columns] = layout;
  const [place, ...places] = [time, ...columns].map((column) => names.indexOf(column));
  const number = (cell) => (cell?.trim() ? Number(cell) : NaN);
  return lines
    .filter((line) => line.trim())
    .map((line) => line.split(","))
    .map((cells) => [unit * number(cells[place]), places.map((one) => (one < 0 ? NaN : number(cells[one])))])
    .filter(([moment]) => Number.isFinite(moment));
}

function readLog(text) {
  const lines = text.split("\n").filter((line) => line.trim()).map((line) => JSON.parse(line));
  const none = [NaN, NaN, NaN];
  return lines.filter((line) => "time" in line).map((line) => [line.time, [...(line.accel ?? none), ...(line.gyro ?? none)]]);
}
