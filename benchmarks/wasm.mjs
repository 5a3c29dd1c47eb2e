/** One ONNX file in onnxruntime-web, on one thread: the same code in Node and in a browser's page. */

export async function open(ort, bytes) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
}

/** Where pixel (row, column) of a picture comes from that is turned so many times by 90 degrees, counter-clockwise. */
function source(turns, row, column, size) {
  for (let i = 0; i < turns; i++) [row, column] = [column, size - 1 - row];
  return row * size + column;
}

/** The logits of all patches under the four quarter turns, one after the other. */
export async function fourAnswers(ort, session, patches, levels, size, batch = 16) {
  const pixels = size * size;
  const count = patches.length / (3 * pixels);
  const logits = [];
  for (let turns = 0; turns < 4; turns++) {
    const from = Uint32Array.from({ length: pixels }, (_, i) => source(turns, Math.floor(i / size), i % size, size));
    for (let start = 0; start < count; start += batch) {
      const many = Math.min(batch, count - start);
      const input = new Float32Array(many * 3 * pixels);
      for (let plane = 0; plane < many * 3; plane++) {
        const first = (start * 3 + plane) * pixels;
        for (let i = 0; i < pixels; i++) input[plane * pixels + i] = levels[(plane % 3) * 256 + patches[first + from[i]]];
      }
      logits.push(...(await run(ort, session, input, [many, 3, size, size])));
    }
  }
  return logits;
}

/** Milliseconds of each call, after as many that do not count. */
export async function latency(ort, session, size, batch, calls) {
  const input = Float32Array.from({ length: batch * 3 * size * size }, (_, i) => Math.sin(i));
  const milliseconds = [];
  for (let call = 0; call < 2 * calls; call++) {
    const started = performance.now();
    await run(ort, session, input, [batch, 3, size, size]);
    milliseconds.push(performance.now() - started);
  }
  return milliseconds.slice(calls);
}

async function run(ort, session, input, shape) {
  const outputs = await session.run({ [session.inputNames[0]]: new ort.Tensor("float32", input, shape) });
  return Object.values(outputs)[0].data;
}
