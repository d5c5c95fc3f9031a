/**
 * From an op to something a GPU can run. Layouts are explicit and come from the op's signature:
 * group 0 binds its arguments (inputs read-only, outputs read-write), group 1 the uniform block at
 * a dynamic offset.
 */
import prelude from "../../../shaders/prelude.wgsl" with { type: "text" };
import { argumentsOf, type DeviceDType, type Op, parseSignature } from "../../op.ts";
import type { Faults } from "./faults.ts";

/** Values of the shaders' `<argument>_dtype` constants; integers leave the shader's own. */
const DTYPE_CODES: Partial<Record<DeviceDType, number>> = { f32: 0, bf16: 1, f16: 2, f8_e4m3: 3 };

/** An op compiled for the dtypes of its arguments. */
export interface Kernel {
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
}

/** Compiles each op once per combination of dtypes. */
export class Pipelines {
  readonly uniformLayout: GPUBindGroupLayout;
  readonly #device: GPUDevice;
  readonly #faults: Faults;
  readonly #kernels = new Map<Op, Map<string, Kernel>>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();

  constructor(device: GPUDevice, faults: Faults) {
    this.#device = device;
    this.#faults = faults;
    this.uniformLayout = device.createBindGroupLayout({
      entries: [{
        binding: 0,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: "uniform", hasDynamicOffset: true },
      }],
    });
  }

  /** The kernel of `op` for arguments of these dtypes, in binding order. */
  get(op: Op, dtypes: readonly DeviceDType[]): Kernel {
    let kernels = this.#kernels.get(op);
    if (!kernels) this.#kernels.set(op, kernels = new Map());
    const key = dtypes.join();
    let kernel = kernels.get(key);
    if (!kernel) kernels.set(key, kernel = this.#compile(op, dtypes));
    return kernel;
  }

  #compile(op: Op, dtypes: readonly DeviceDType[]): Kernel {
    const constants: Record<string, number> = {};
    argumentsOf(op).forEach(([name, signature], i) => {
      const code = DTYPE_CODES[dtypes[i]!];
      if (code !== undefined && parseSignature(signature).dtypes.length > 1) {
        constants[`${name}_dtype`] = code;
      }
    });
    const layout = this.#layout(Object.keys(op.inputs).length, Object.keys(op.outputs).length);
    const pipeline = this.#faults.watch(
      `compile ${op.name}`,
      () =>
        this.#device.createComputePipeline({
          label: op.name,
          layout: this.#device.createPipelineLayout({
            bindGroupLayouts: [layout, this.uniformLayout],
          }),
          compute: {
            module: this.#device.createShaderModule({ label: op.name, code: prelude + op.wgsl }),
            entryPoint: "main",
            constants,
          },
        }),
    );
    return { pipeline, layout };
  }

  #layout(inputs: number, outputs: number): GPUBindGroupLayout {
    const key = `${inputs} ${outputs}`;
    let layout = this.#layouts.get(key);
    if (!layout) {
      const entries = Array.from({ length: inputs + outputs }, (_, binding) => ({
        binding,
        visibility: GPUShaderStage.COMPUTE,
        buffer: { type: binding < inputs ? "read-only-storage" : "storage" } as const,
      }));
      this.#layouts.set(key, layout = this.#device.createBindGroupLayout({ entries }));
    }
    return layout;
  }
}
