/**
 * What machines that run quantized models have: memory, its bandwidth, and which products they
 * compute natively. Numbers are the vendors' for the usual configuration; a generated token needs
 * every weight once, so bandwidth over bytes is the most tokens a second that one request can get.
 */

/** Where a model is to run. */
export type Target = "server" | "laptop" | "mobile" | "browser";

/** Every target. */
export const TARGETS: readonly Target[] = ["server", "laptop", "mobile", "browser"];

/** A number format that a machine multiplies without widening it first. */
export type Native = "int8" | "fp8" | "fp4";

/** A machine. */
export interface Hardware {
  readonly name: string;
  readonly target: Target;
  /** Bytes of memory that weights may be in. */
  readonly memoryBytes: number;
  /** Bytes a second. */
  readonly bandwidth: number;
  /** Products of activations and weights of 8 or 4 bits; weights alone may always be smaller. */
  readonly native: readonly Native[];
  /** What computes them. */
  readonly units: string;
}

const GB = 1e9;

function hardware(
  name: string,
  target: Target,
  memory: number,
  bandwidth: number,
  native: readonly Native[],
  units: string,
): Hardware {
  return { name, target, memoryBytes: memory * GB, bandwidth: bandwidth * GB, native, units };
}

/**
 * The machines that are known, those of a target with the usual one first. Sources: NVIDIA's data
 * sheets and architecture white papers (Turing: int8 Tensor Cores; Ampere: int8; Ada and Hopper:
 * fp8; Blackwell: fp4), AMD's for CDNA 3, Intel's for AMX and AVX-512 VNNI, Apple's technical
 * specifications, Qualcomm's product briefs.
 */
export const HARDWARE: readonly Hardware[] = [
  hardware("h100", "server", 80, 3350, ["int8", "fp8"], "Tensor Cores, Hopper (SXM)"),
  hardware("h200", "server", 141, 4800, ["int8", "fp8"], "Tensor Cores, Hopper"),
  hardware("b200", "server", 180, 8000, ["int8", "fp8", "fp4"], "Tensor Cores, Blackwell"),
  hardware("a100", "server", 80, 2039, ["int8"], "Tensor Cores, Ampere (80 GB, SXM)"),
  hardware("l4", "server", 24, 300, ["int8", "fp8"], "Tensor Cores, Ada"),
  hardware("t4", "server", 16, 320, ["int8"], "Tensor Cores, Turing"),
  hardware("mi300x", "server", 192, 5300, ["int8", "fp8"], "Matrix Cores, CDNA 3"),
  hardware("xeon", "server", 256, 307, ["int8"], "AMX, 8 channels of DDR5-4800"),
  hardware("laptop", "laptop", 16, 90, ["int8"], "AVX-512 VNNI or AVX-VNNI, DDR5-5600"),
  hardware("m1", "laptop", 8, 68, [], "GPU and CPU with int8 dot products"),
  hardware("m4", "laptop", 16, 120, [], "GPU and CPU with int8 dot products"),
  hardware("m4-max", "laptop", 64, 546, [], "GPU and CPU with int8 dot products"),
  hardware("rtx-3090", "laptop", 24, 936, ["int8"], "Tensor Cores, Ampere"),
  hardware("rtx-4090", "laptop", 24, 1008, ["int8", "fp8"], "Tensor Cores, Ada"),
  hardware("rtx-5090", "laptop", 32, 1792, ["int8", "fp8", "fp4"], "Tensor Cores, Blackwell"),
  hardware("phone", "mobile", 8, 60, ["int8"], "NPU with int8, LPDDR5X"),
  hardware("phone-12", "mobile", 12, 77, ["int8"], "NPU with int8, LPDDR5X-9600"),
  hardware("webgpu", "browser", 4, 60, [], "WGSL in f32 or f16; no native int8 product"),
];

/** The machine of a name; undefined when none is known by it. */
export function hardwareNamed(name: string): Hardware | undefined {
  return HARDWARE.find((one) => one.name === name.toLowerCase());
}

/** The usual machine of a target. */
export function usualHardware(target: Target): Hardware {
  return HARDWARE.find((one) => one.target === target)!;
}
