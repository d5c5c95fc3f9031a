/** What the CPU is, as a device: threads, memory, and how it multiplies. Nothing here starts it. */
import type { DeviceLimits, MatrixPlaces } from "../../backend.ts";
import type { Op } from "../../op.ts";
import { type Blas, describeBlas } from "./blas.ts";
import { MAX_PAGES } from "./heap.ts";
import { KERNEL_NAMES, Kernels } from "./pool.ts";

const MAX_TENSOR_BYTES = 2 ** 30;
const SLICE_BYTES = 4 * 2 ** 20;
/**
 * Matrices of 14,189 columns squared and more are kept outside the memory, unless a plan says
 * otherwise: three of them are at hand while a layer is calibrated.
 */
const OUTSIDE_BYTES = 3 * 2 ** 28;
/**
 * The share of the memory that a plan may fill: tensors come and go in sizes of their own, and
 * leave gaps that the next do not fit. With 11,008 inputs, for which 2.33 GB are planned, 2.25 GB
 * of tensors took up 2.43 GB (tests/device_memory_test.ts tries such runs).
 */
const FILLED = 15 / 16;

/** What a plan depends on of the CPU, with a number of threads. */
export class CpuLimits implements DeviceLimits {
  readonly name = "wasm";
  readonly software = false;
  readonly maxTensorBytes = MAX_TENSOR_BYTES;
  readonly memoryBytes: number;
  readonly sliceBytes = SLICE_BYTES;
  matrixPlaces: MatrixPlaces = { outsideBytes: OUTSIDE_BYTES };
  readonly productRows = 2048;
  readonly busyRows = 64;
  readonly productElements = 2 ** 22;

  constructor(threads: number) {
    const scratchBytes = threads * probe().constant("scratchBytes");
    this.memoryBytes = Math.floor((MAX_PAGES * 65536 - scratchBytes) * FILLED);
  }

  /** See {@linkcode DeviceLimits}. */
  supports(op: Op): true | string {
    return KERNEL_NAMES.includes(op.name) || `there is no WebAssembly kernel for ${op.name}`;
  }
}

/** Kernels to ask for what they were compiled with; made in less than a millisecond. */
function probe(): Kernels {
  return new Kernels(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }));
}

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
  return {
    threads: navigator.hardwareConcurrency,
    memoryBytes: MAX_PAGES * 65536,
    maxTensorBytes: MAX_TENSOR_BYTES,
    fusedMultiplyAdd: probe().call("probeFused", 0) === 1,
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
