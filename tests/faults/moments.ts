/**
 * Moments of a run, by what is under way in it: requests, kernels, writes. At one of them the
 * process kills itself, as others kill it: without a word, whatever is half done.
 */
import { basename } from "node:path";
import type { Backend } from "../../src/backend.ts";
import { type Disk, disk as machine, type DiskWriter } from "../../src/io/disk.ts";
import { STAGE } from "../../src/sinks/stage.ts";
import { withOwn } from "../run_given.ts";

/** What a run that begins on the Hub and ends there does, in the order of the plan of faults. */
export const STAGES = [
  "resolve",
  "tree",
  "index",
  "header",
  "read",
  "dequantize",
  "quantize",
  "write",
  "flush",
  "rename",
  "journal",
  "publish",
] as const;
export type Stage = typeof STAGES[number];

/** When a process ends: at the n-th moment of a stage, or of all. */
export interface Kill {
  readonly stage?: Stage;
  readonly at: number;
}

/** Counts moments. */
export class Moments {
  readonly counts = Object.fromEntries(STAGES.map((stage) => [stage, 0])) as Record<Stage, number>;
  readonly #kill: Kill | undefined;
  #all = 0;

  constructor(kill: Kill | undefined) {
    this.#kill = kill;
  }

  /** A moment; where it is the last one, this does not return. */
  pass(stage: Stage): void {
    const [n, all] = [this.counts[stage]++, this.#all++];
    if (!this.#kill) return;
    const { stage: only, at } = this.#kill;
    if (only === undefined ? all === at : only === stage && n === at) {
      Deno.kill(Deno.pid, "SIGKILL");
    }
  }

  /**
   * Requests with moments before each, after its answer's headers, after the first piece of its
   * body, and at its end: in how many pieces it comes is the network's.
   */
  fetching(stageOf: (url: URL) => Stage): typeof fetch {
    return async (input, init) => {
      const stage = stageOf(new URL(input instanceof Request ? input.url : input));
      this.pass(stage);
      const answer = await fetch(input, init);
      this.pass(stage);
      const reader = answer.body?.getReader();
      if (!reader) return answer;
      let begun = false;
      const body = new ReadableStream({
        type: "bytes",
        pull: async (controller) => {
          const { done, value } = await reader.read();
          if (done || !begun) this.pass(stage);
          begun = true;
          if (!done) return controller.enqueue(value);
          controller.close();
          controller.byobRequest?.respond(0);
        },
        cancel: (reason) => reader.cancel(reason),
      });
      return new Response(body, answer);
    };
  }

  /** A device with moments before and after the kernels that quantize, and those that go back. */
  device(backend: Backend): Backend {
    const run: Backend["run"] = (op, ...given) => {
      const stage = /^dequantize/.test(op.name)
        ? "dequantize"
        : /^quantize|^gptq/.test(op.name)
        ? "quantize"
        : undefined;
      if (stage) this.pass(stage);
      backend.run(op, ...given);
      if (stage) this.pass(stage);
    };
    return withOwn(backend, { run });
  }

  /** The machine's disk with moments before and after each change, and in the middle of writes. */
  disk(): Disk {
    const around = async <T>(stage: Stage, work: () => Promise<T>): Promise<T> => {
      this.pass(stage);
      const result = await work();
      this.pass(stage);
      return result;
    };
    const writing = (path: string, writer: DiskWriter): DiskWriter => {
      const stage = basename(path) === STAGE.journal ? "journal" : "write";
      return {
        write: (offset, bytes) =>
          around(stage, async () => {
            const half = bytes.length >> 1;
            await writer.write(offset, bytes.subarray(0, half));
            this.pass(stage);
            await writer.write(offset + half, bytes.subarray(half));
          }),
        sync: () => around("flush", () => writer.sync()),
        [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
      };
    };
    return {
      ...machine,
      create: async (path, ...given) =>
        writing(path, await around("write", () => machine.create(path, ...given))),
      reopen: async (path, size) =>
        writing(path, await around("write", () => machine.reopen(path, size))),
      makeFolder: (...given) => around("write", () => machine.makeFolder(...given)),
      remove: (...given) => around("write", () => machine.remove(...given)),
      syncFolder: (path) => around("flush", () => machine.syncFolder(path)),
      rename: (...given) => around("rename", () => machine.rename(...given)),
    };
  }
}
