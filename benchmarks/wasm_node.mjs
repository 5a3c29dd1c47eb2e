/** `node wasm_node.mjs JOB`: a job of wasm.py, as JSON, in Node; prints what it found as JSON. */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { fourAnswers, latency, open } from "./wasm.mjs";

const job = JSON.parse(process.argv[2]);
const ort = await import(pathToFileURL(job.runtime).href);
const before = process.memoryUsage().rss;
const session = await open(ort, new Uint8Array(readFileSync(job.file)));
const found = {};
if (job.patches) {
  const levels = new Float32Array(new Uint8Array(readFileSync(job.levels)).buffer);
  found.logits = await fourAnswers(ort, session, new Uint8Array(readFileSync(job.patches)), levels, job.size);
  found.peak_mib = process.resourceUsage().maxRSS / 1024 - before / 2 ** 20;
}
for (const [batch, calls] of Object.entries(job.calls ?? {})) {
  (found.milliseconds ??= {})[batch] = await latency(ort, session, job.size, Number(batch), calls);
}
console.log(JSON.stringify(found));
