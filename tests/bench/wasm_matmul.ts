/**
 * matmul_nt on the CPU: the whole product (packing included) on one thread against a loop of
 * nothing but 128-bit fused multiply-adds, and two threads against one; the same products by a
 * BLAS, if there is one, against ours. The loop beside a second one tells whether the host really
 * gives two cores.
 */
import assert from "node:assert/strict";
import type { Backend, Tensor } from "../../src/backend.ts";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { matmulNt } from "../../src/ops/matmul_nt.ts";
import { blasHere, cpuName } from "./environment.ts";
import { compare, type Contestant, flopRate, median, type Ratio, type Skipped } from "./measure.ts";

const N = 1024;
/** Rounds of the FMA loop in a turn: about as long as a product takes. */
const LOOPS = 20_000_000;
/**
 * Ten independent sums of four floats: as many multiply-adds in flight as a CPU's two units of four
 * cycles need, and two more.
 */
const SUMS = 10;

/** The peak: multiply-adds with no memory in the loop. */
const LOOP = (() => {
  const sums = Array.from({ length: SUMS }, (_, i) => `c${i}`);
  return `export function loop(p: usize, n: i32): void {
    const a = v128.load(p), b = v128.load(p, 16);
    let ${sums.map((sum, i) => `${sum} = v128.load(p, ${16 * i + 32})`).join(", ")};
    for (let i: i32 = 0; i < n; i++) {
      ${sums.map((sum) => `${sum} = f32x4.relaxed_madd(a, b, ${sum});`).join("\n")}
    }
    ${sums.map((sum, i) => `v128.store(p, ${sum}, ${16 * i + 32});`).join("\n")}
  }`;
})();

/** A thread that spins for as many milliseconds as it is told. */
const SPINNER = `onmessage = ({ data }) => {
  for (const end = performance.now() + data; performance.now() < end;);
  postMessage("done");
};`;

/** A product per call, and its seconds. */
function multiplier(backend: Backend, weight: "f32" | "bf16"): () => number {
  const random = (tensor: Tensor, bytes: number) => {
    const words = new Uint16Array(bytes / 2);
    // A sign and an exponent near 2^-6 in every half word: normal numbers, whichever float it is
    // part of.
    let state = 1;
    for (let i = 0; i < words.length; i++) {
      state = Math.imul(state, 1664525) + 1013904223 | 0;
      words[i] = (state >>> 31) << 15 | (0x3c00 + (state >>> 20 & 0x1ff));
    }
    backend.write(tensor, new Uint8Array(words.buffer));
    return tensor;
  };
  const x = random(backend.alloc("f32", [N, N]), 4 * N * N);
  const w = random(backend.alloc(weight, [N, N]), (weight === "f32" ? 4 : 2) * N * N);
  const y = backend.alloc("f32", [N, N]);
  return () => {
    const begun = performance.now();
    backend.run(matmulNt, { x, w, y }, { column: 0 });
    return (performance.now() - begun) / 1000;
  };
}

const WEIGHTS = ["f32", "bf16"] as const;
const THREADS = [1, 2] as const;

/** Run it. */
export async function run(rounds = 15): Promise<(Ratio | Skipped)[]> {
  const library = blasHere();
  await using opened = new AsyncDisposableStack();
  const contestants: Contestant[] = [];
  for (const threads of THREADS) {
    for (const blas of library ? ["none", "auto"] as const : ["none"] as const) {
      const backend = opened.use(await openWasm({ threads, blas }));
      for (const weight of WEIGHTS) {
        const turn = multiplier(backend, weight);
        contestants.push({ name: `${weight} ${threads} ${blas}`, work: 2 * N ** 3, turn });
      }
    }
  }
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
  // Where other benchmarks are wanted, the compiler of AssemblyScript may be absent.
  const { buildKernels } = await import("../../src/backends/wasm/build.ts");
  const module = await WebAssembly.compile(await buildKernels({ "kernels.ts": LOOP }));
  const { loop } = new WebAssembly.Instance(module, { env: { memory } }).exports;
  assert.ok(typeof loop === "function");
  const peak = () => {
    const begun = performance.now();
    loop(4096, LOOPS);
    return (performance.now() - begun) / 1000;
  };
  const spinner = new Worker(`data:text/javascript,${encodeURIComponent(SPINNER)}`, {
    type: "module",
  });
  try {
    const alone: number[] = [];
    const beside: number[] = [];
    const rates = await compare([
      {
        name: "loop",
        work: LOOPS * SUMS * 8,
        turn: () => {
          const seconds = peak();
          alone.push(seconds);
          return seconds;
        },
      },
      ...contestants,
      {
        name: "loop beside a busy thread",
        work: LOOPS * SUMS * 8,
        turn: async () => {
          const { promise, resolve } = Promise.withResolvers<void>();
          spinner.onmessage = () => resolve();
          spinner.postMessage(1500 * median(alone));
          await new Promise((resolve) => setTimeout(resolve, 250 * median(alone)));
          const seconds = peak();
          beside.push(seconds);
          await promise;
          return seconds;
        },
      },
    ], { rounds });
    const rate = (name: string) => rates.find((one) => one.name === name)!.rate;
    const against = (
      [name, of]: readonly [name: string, of: string],
      [rival, than]: readonly [name: string, of: string],
      rest: { readonly goal: number; readonly device: string; readonly detail?: string },
    ): Ratio => ({
      what: `${name}, ${N}³`,
      ours: flopRate(rate(of)),
      against: `${rival}: ${flopRate(rate(than))}`,
      ratio: rate(of) / rate(than),
      ...rest,
    });
    const cores = (2 * median(alone) / median(beside)).toFixed(2);
    const ours = [
      ...WEIGHTS.map((weight) =>
        against([`matmul_nt ${weight}`, `${weight} 1 none`], ["128-bit FMA loop", "loop"], {
          goal: 0.7,
          device: cpuName(1),
        })
      ),
      ...WEIGHTS.map((weight) =>
        against([`matmul_nt ${weight}`, `${weight} 2 none`], ["1 thread", `${weight} 1 none`], {
          goal: 1.6,
          device: cpuName(2),
          detail: `two spinning threads had ${cores} cores of this host meanwhile`,
        })
      ),
    ];
    if (!library) {
      return [...ours, { skipped: "A BLAS's products. There is no BLAS that Sluice would take." }];
    }
    return [
      ...ours,
      ...THREADS.flatMap((threads) =>
        WEIGHTS.map((weight) =>
          against(
            [`matmul_nt ${weight}, with a BLAS`, `${weight} ${threads} auto`],
            ["Sluice's own kernels", `${weight} ${threads} none`],
            { goal: 1, device: cpuName(threads, library) },
          )
        )
      ),
    ];
  } finally {
    spinner.terminate();
  }
}
