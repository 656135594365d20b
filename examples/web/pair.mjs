/* The two programs of `egodistill export --pair --format onnx` in onnxruntime-web.

    const pair = await openPair(ort, "student.onnx");      // student.frame.onnx, student.motion.onnx and their .json
    const feature = await pair.encodeFrame(picture);       // once per picture: Uint8Array, RGB planes [3, size, size]
    const logits = await pair.fuse([feature], window);     // once per answer: Float32Array [samples * 6]
    const scores = softmax(logits, pair.temperatureOf(["frames", "imu"]));

With `pair.optionalInputs`, features or window may be null, and the temperature is that of the other: ["imu"] or ["frames"].

`ort` is the module onnxruntime-web. Load only programs whose source you trust. */

const EXPORT = "Export a student into this folder; README.md says how.";
const AGAIN = "Export the student again.";

/** Return the two programs with the values of their descriptions. The error of a missing file names it. */
export async function openPair(ort, address) {
  const stem = address.replace(/\.onnx$/, "");
  if (stem === address) throw new Error(`${address}: a pair of programs is named STEM.onnx`);
  const files = ["frame", "motion"].map((part) => `${stem}.${part}.onnx`);
  const describe = async (file) => {
    const found = await get(`${file}.json`, EXPORT);
    return found.json().catch((error) => fail(`${file}.json: damaged: ${error.message}. ${AGAIN}`));
  };
  const [frame, motion] = [await describe(files[0]), await describe(files[1])];
  check(frame, motion, files);
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
  const [sessions, sizes] = [[], []];
  for (const file of files) {
    // One after the other: a phone may lack the memory for both at once.
    const program = new Uint8Array(await (await get(file, EXPORT)).arrayBuffer());
    sizes.push(program.length);
    const made = ort.InferenceSession.create(program, options);
    sessions.push(await made.catch((error) => fail(`${file}: not a program that runs here: ${error.message}. ${AGAIN}`)));
  }
  const { clip_spec: spec, class_names: classNames, temperature = 1, alone, events, student, precision } = motion;
  const optionalInputs = motion.inputs.some(({ name }) => name === "present");
  const dim = frame.outputs[0].shape[1];
  const run = async (which, inputs, name) => {
    const outputs = await sessions[which].run(inputs);
    const { data } = outputs[name];
    if (!data.every(Number.isFinite)) fail(`${files[which]}: gives numbers that are not finite, so it is damaged. ${AGAIN}`);
    Object.values(outputs).forEach((tensor) => tensor.dispose());
    return data;
  };
  return {
    spec,
    classNames,
    temperatureOf: (inputs) => (inputs.length === 2 ? temperature : (alone?.[inputs[0]] ?? 1)),
    optionalInputs,
    events,
    student,
    files: files.map((name, k) => ({ name, bytes: sizes[k] })),
    precision,
    multiplyAdds: { frame: frame.multiply_adds, motion: motion.multiply_adds },
    // Inputs are copied: where onnxruntime-web works in a worker, it takes their buffers away.
    encodeFrame: (picture) => {
      const pixels = new ort.Tensor("uint8", picture.slice(), [1, 3, spec.size, spec.size]);
      return run(0, { frame: pixels }, "image_feature");
    },
    fuse: async (features, window) => {
      if (!features && !window) fail("An answer needs image features or head motion.");
      if (!optionalInputs && !(features && window)) fail("This student needs both image features and head motion.");
      const image = new Float32Array(spec.frames * dim);
      features?.forEach((feature, k) => image.set(feature, k * dim));
      const samples = window?.slice() ?? new Float32Array(6 * spec.imu_samples);
      const inputs = {
        image_features: new ort.Tensor("float32", image, [1, spec.frames, dim]),
        imu: new ort.Tensor("float32", samples, [1, spec.imu_samples, 6]),
      };
      const present = Uint8Array.of(features ? 1 : 0, window ? 1 : 0);
      if (optionalInputs) inputs.present = new ort.Tensor("bool", present, [1, 2]);
      return run(1, inputs, "logits");
    },
  };
}

/** Return the answer to a request; the error of one that fails names the address and the way out. */
export async function get(address, wayOut, options = {}) {
  const found = await fetch(address, options).catch((error) => ({ ok: false, status: error.message }));
  return found.ok ? found : fail(`${address} cannot be read (${found.status}). ${wayOut}`);
}

function fail(text) {
  throw new Error(text);
}

function check(frame, motion, files) {
  for (const [k, description] of [frame, motion].entries()) {
    if (description?.kind !== "onnx") fail(`${files[k]}.json: not the description of an ONNX program. ${AGAIN}`);
    const batch = description.inputs[0].shape[0];
    if (batch !== "batch" && batch !== 1) throw new Error(`${files[k]}: takes ${batch} at once; export without --batch-size.`);
  }
  if (frame.student !== motion.student) {
    throw new Error(`${files.join(" and ")} are not of one student; copy all four files of one export.`);
  }
  const { frames, imu_samples: samples, imu_axes: axes } = motion.clip_spec;
  if (!frames || !samples) throw new Error("This page is for a student that reads frames and head motion.");
  if (axes !== "gopro") throw new Error(`This student reads samples in the axes "${axes}"; this page has those of a GoPro.`);
}
