/** The page's side of a network: a queue in front of its worker. What the reader looks at goes first. */

import { WrongFile } from "./picture.js";

const KEPT = 101; // times, for their median

export class Network {
  constructor() {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#answered(data);
    this.worker.onerror = (event) => this.#broke(event.message ?? "its files did not load");
    this.queue = [];
    this.current = null;
    this.failure = null;
    this.milliseconds = [];
  }

  /** Load ONNX bytes; a file that does not fit leaves the network before in place. */
  async open(bytes, name) {
    try {
      const { size } = await this.#ask(() => ({ bytes }), [bytes], true);
      this.size = size;
      this.milliseconds = [];
    } catch (error) {
      throw this.failure ?? new WrongFile(`«${name}» ${error.message}`);
    }
  }

  /**
   * Two logits for one input.
   * @param {() => Float32Array} input made only when its turn has come
   * @param {object} options first: before all that waits; group: what cancel() takes out again
   */
  async run(input, { first = false, group = null } = {}) {
    const { logits, milliseconds } = await this.#ask(() => ({ input: input() }), [], first, group);
    this.milliseconds.push(milliseconds);
    if (this.milliseconds.length > KEPT) this.milliseconds.shift();
    return logits;
  }

  /** Take everything of a group out of the queue; its promises stay open and are forgotten. */
  cancel(group) {
    this.queue = this.queue.filter((job) => job.group !== group);
  }

  get median() {
    const sorted = [...this.milliseconds].sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  #ask(message, transfer, first, group) {
    return new Promise((resolve, reject) => {
      if (this.failure) throw this.failure;
      const job = { message, transfer, group, resolve, reject };
      if (first) this.queue.unshift(job);
      else this.queue.push(job);
      this.#next();
    });
  }

  #next() {
    while (!this.current && this.queue.length > 0) {
      const job = this.queue.shift();
      try {
        this.worker.postMessage(job.message(), job.transfer);
        this.current = job;
      } catch (error) {
        job.reject(error);
      }
    }
  }

  #answered({ result, error }) {
    const job = this.current;
    this.current = null;
    if (error) job.reject(new Error(error));
    else job.resolve(result);
    this.#next();
  }

  #broke(words) {
    this.failure = new Error(`The thread of a network could not start (${words}).`);
    for (const job of [this.current, ...this.queue]) job?.reject(this.failure);
    this.current = null;
    this.queue = [];
  }
}
