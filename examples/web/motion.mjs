/* Head motion in the axes of a GoPro (X to the left, Y to the user, Z up), in m/s2 and rad/s, without a document.

    const phone = new Phone();
    addEventListener("devicemotion", (event) => {
      for (const { time, reading } of phone.read(event, screen.orientation.angle)) stream.acceptMotion([time], [reading]);
    });

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
