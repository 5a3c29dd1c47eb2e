/** One network in a thread of its own, so that the page stays smooth while it computes. */

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more would need special headers (cross-origin isolation) from the server
ort.env.wasm.wasmPaths = { wasm: new URL("./runtime/ort-wasm-simd-threaded.wasm", import.meta.url).href };
ort.env.logLevel = "error";

let session = null;
let shape = null;

self.onmessage = async ({ data: { id, bytes, input } }) => {
  try {
    self.postMessage({ id, result: bytes ? await open(bytes) : await run(input) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
};

/** Take another network; the one before stays if this one does not fit. */
async function open(bytes) {
  let opened;
  try {
    opened = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  } catch (error) {
    console.info(error);
    throw new Error("is no ONNX file that onnxruntime can run: make one with «equilib quantize».");
  }
  const [input, ...others] = opened.inputMetadata;
  const dimensions = input.isTensor ? input.shape : [];
  const [, channels, height, width] = dimensions;
  const fits = others.length === 0 && input.type === "float32" && dimensions.length === 4 && channels === 3 && height === width;
  let answer = null;
  if (fits && Number.isInteger(height) && height <= 96) {
    const trial = new ort.Tensor("float32", new Float32Array(3 * height * height), [1, 3, height, height]);
    answer = Object.values(await opened.run({ [input.name]: trial }))[0];
  }
  if (answer?.type !== "float32" || String(answer.dims) !== "1,2") {
    await opened.release();
    const takes = opened.inputNames.length === 1 ? `takes ${dimensions.join(" × ") || "no tensor"}` : "takes several inputs";
    throw new Error(`is an ONNX file of another network (it ${takes}): this page needs one that takes patches and gives two logits, as «equilib quantize» writes it.`);
  }
  await session?.release();
  session = opened;
  shape = [1, 3, height, height];
  return { size: height };
}

async function run(input) {
  const started = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", input, shape) });
  const milliseconds = performance.now() - started;
  return { logits: Float32Array.from(Object.values(outputs)[0].data), milliseconds };
}
