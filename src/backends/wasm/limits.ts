/** What the CPU is, as a device: threads, memory, and how it multiplies. */
import { type Blas, describeBlas } from "./blas.ts";
import { MAX_PAGES } from "./heap.ts";
import { Kernels } from "./pool.ts";

/** The largest tensor there is, in bytes. */
export const MAX_TENSOR_BYTES = 2 ** 30;

/** What the WASM backend can do on this machine, for `sluice devices`. */
export interface WasmLimits {
  readonly threads: number;
  /** All tensors together, and what the threads work in. */
  readonly memoryBytes: number;
  readonly maxTensorBytes: number;
  /**
   * Whether the CPU multiplies and adds with one rounding; sums of products differ in their last
   * bits where it does not.
   */
  readonly fusedMultiplyAdd: boolean;
}

/** Look at the CPU; takes about a millisecond. */
export function wasmLimits(): WasmLimits {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  return {
    threads: navigator.hardwareConcurrency,
    memoryBytes: MAX_PAGES * 65536,
    maxTensorBytes: MAX_TENSOR_BYTES,
    fusedMultiplyAdd: new Kernels(memory).call("probeFused", 0) === 1,
  };
}

/**
 * The CPU in words: `2 threads of WebAssembly SIMD with fused multiply-add`, and what multiplies:
 * `and OpenBLAS 0.3.21 (SkylakeX)`.
 */
export function describeCpu(limits: WasmLimits = wasmLimits(), blas?: Blas): string {
  const threads = limits.threads === 1 ? "1 thread" : `${limits.threads} threads`;
  const fused = limits.fusedMultiplyAdd ? "with" : "without";
  const library = blas ? ` and ${describeBlas(blas)}` : "";
  return `${threads} of WebAssembly SIMD ${fused} fused multiply-add${library}`;
}
