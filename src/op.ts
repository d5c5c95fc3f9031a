/**
 * Operations are data: a signature with named dimensions, a plain definition, and the WGSL that
 * computes it. Every kernel on every backend is tested against the definition
 * (tests/conformance/backend.ts).
 */
import type { Sampling } from "./sampling.ts";
import { BITS, type DType, elementCount, type Shape } from "./tensor.ts";

/** Dtypes a device tensor may have. */
export type DeviceDType = "f32" | "bf16" | "f16" | "f8_e4m3" | "i8" | "u8" | "i32" | "u32";

/**
 * A dtype, or several joined by `|`, and named dimensions: `"f32[T, C]"`, `"f32|bf16|f16[R, C]"`.
 * An argument with alternatives reaches WGSL as `array<u32>` and an `override <name>_dtype: u32`
 * (see shaders/prelude.wgsl).
 */
export type Signature = `${string}[${string}]`;

/** Sizes by dimension name, solved from the tensors an op is run with. */
export type Dims = Readonly<Record<string, number>>;

/** The scalar arguments of one call. */
export type Scalars = Readonly<Record<string, number>>;

/**
 * What a definition sees. Arguments whose signature names `f32` among its alternatives, and inputs
 * that offer only narrower floats, arrive widened to Float32Array; `bf16`/`f16` outputs are
 * Uint16Array and `f8_e4m3` outputs Uint8Array, as raw bits.
 */
export type OpArray =
  | Float32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>
  | Int8Array<ArrayBuffer>;
export type Arrays = Readonly<Record<string, OpArray>>;

/** The dtype of every tensor of one call, by argument name. */
export type DTypes = Readonly<Record<string, DeviceDType>>;

/** One operation. Outputs are read-write: an op may add to what it finds there. */
export interface Op {
  readonly name: string;
  readonly inputs: Readonly<Record<string, Signature>>;
  readonly outputs: Readonly<Record<string, Signature>>;
  /** Scalars, in the order they follow the dimensions in the uniform block. */
  readonly scalars?: Readonly<Record<string, "u32" | "f32">>;
  /**
   * WGSL: group 0 holds inputs then outputs in declared order; group 1 binding 0 the dims in order
   * of first appearance, then the scalars.
   */
  readonly wgsl: string;
  /** Faster WGSL for some calls; the first variant that fits and suits is run. */
  readonly variants?: readonly Variant[];
  /** Workgroups to dispatch; a count over 65535 must be folded into y by the op. */
  workgroups(dims: Dims, scalars: Scalars): readonly [x: number, y: number, z: number];
  /**
   * Multiply-adds of a call, where dims do not tell them; work is handed to a GPU in pieces of
   * about the same length.
   */
  work?(dims: Dims, scalars: Scalars): number;
  /** Why dims and scalars do not fit together, or `true`. */
  check?(dims: Dims, scalars: Scalars): true | string;
  /** How calls are held against the definition while they run; they are not where it is absent. */
  readonly sampling?: Sampling;
  /**
   * The definition: plain, in float64 where it matters, slow. `dtypes` tells what the tensors were
   * before widening.
   */
  reference(arrays: Arrays, dims: Dims, scalars: Scalars, dtypes: DTypes): void;
}

/** An op by other WGSL, for the calls that it fits. */
export interface Variant {
  /**
   * The same op: its arguments, dims and scalars are in the same order, but it may take fewer
   * dtypes.
   */
  readonly op: Op;
  /** Whether it computes a call rightly, dtypes apart. */
  fits(dims: Dims, scalars: Scalars): boolean;
  /** Whether it is the fastest for a call that it fits. */
  suits(dims: Dims, scalars: Scalars): boolean;
}

/** One call of an op, as those who choose a variant see it. */
export interface Call {
  readonly dims: Dims;
  readonly scalars: Scalars;
  /** In binding order. */
  readonly dtypes: readonly DType[];
}

/** The variants of an op that compute a call rightly. */
export function fittingVariants(op: Op, { dims, scalars, dtypes }: Call): readonly Variant[] {
  return (op.variants ?? []).filter((variant) =>
    argumentsOf(variant.op).every(([, signature], i) =>
      (parseSignature(signature).dtypes as readonly DType[]).includes(dtypes[i]!)
    ) && variant.fits(dims, scalars)
  );
}

/** What a GPU runs for a call: the op itself, or its variant that suits. */
export function chosenVariant(op: Op, call: Call): Op {
  const { dims, scalars } = call;
  return fittingVariants(op, call).find(({ suits }) => suits(dims, scalars))?.op ?? op;
}

/** Keep the literal type of an op's signature. */
export function defineOp<const O extends Op>(op: O): O {
  return op;
}

/** The most workgroups WebGPU lets one dispatch have in one dimension (its default limit). */
const MAX_WORKGROUPS = 65535;

/**
 * A one-dimensional count of workgroups as a dispatch: x, continued in y where the count is over
 * 65535.
 */
export function fold(groups: number): readonly [x: number, y: number, z: number] {
  const y = Math.max(1, Math.ceil(groups / MAX_WORKGROUPS));
  return [Math.ceil(groups / y), y, 1];
}

/** The dispatch for one invocation per item in workgroups of 64, the usual one. */
export function spread(items: number): readonly [x: number, y: number, z: number] {
  return fold(Math.ceil(items / 64));
}

/** A parsed signature. */
export interface ParsedSignature {
  readonly dtypes: readonly DeviceDType[];
  readonly dims: readonly string[];
}

const parsed = new Map<Signature, ParsedSignature>();

/** The dtypes and dimension names of a signature. */
export function parseSignature(signature: Signature): ParsedSignature {
  let result = parsed.get(signature);
  if (!result) {
    const open = signature.indexOf("[");
    result = {
      dtypes: signature.slice(0, open).split("|") as DeviceDType[],
      dims: signature.slice(open + 1, -1).split(",").map((dim) => dim.trim()),
    };
    parsed.set(signature, result);
  }
  return result;
}

/** An op's arguments in binding order: inputs, then outputs. */
export function argumentsOf(op: Op): readonly (readonly [name: string, signature: Signature])[] {
  return [...Object.entries(op.inputs), ...Object.entries(op.outputs)];
}

/** An op's dimension names in order of first appearance; the order of the uniform block. */
export function dimNames(op: Op): string[] {
  return [...new Set(argumentsOf(op).flatMap(([, signature]) => parseSignature(signature).dims))];
}

/**
 * Solve an op's dimensions from the tensors given. An argument with one dimension takes a tensor of
 * any rank, flattened.
 *
 * @throws {TypeError} an argument is missing, unknown, or has another dtype or rank; a scalar is
 * missing or unknown.
 * @throws {RangeError} two arguments disagree about a dimension, a scalar is no number of its type,
 * or `op.check` objects.
 */
export function bindDims(
  op: Op,
  tensors: Readonly<Record<string, { readonly dtype: DType; readonly shape: Shape }>>,
  scalars: Scalars,
): Dims {
  const dims: Record<string, number> = {};
  const from: Record<string, string> = {};
  const args = argumentsOf(op);
  for (const [name, signature] of args) {
    const tensor = tensors[name];
    if (!tensor) throw new TypeError(`Cannot run ${op.name}: argument "${name}" is missing`);
    const want = parseSignature(signature);
    const shape = want.dims.length === 1 ? [elementCount(tensor.shape)] : tensor.shape;
    if (
      !(want.dtypes as readonly DType[]).includes(tensor.dtype) ||
      shape.length !== want.dims.length
    ) {
      throw new TypeError(
        `Cannot run ${op.name}: "${name}" must be ${signature}, got ${tensor.dtype}[${tensor.shape}]`,
      );
    }
    want.dims.forEach((dim, i) => {
      const size = shape[i]!;
      from[dim] ??= name;
      if ((dims[dim] ??= size) !== size) {
        throw new RangeError(
          `Cannot run ${op.name}: "${name}" has ${dim} = ${size} and "${from[dim]}" has ${dim} = ${
            dims[dim]
          }`,
        );
      }
    });
  }
  for (const name of Object.keys(tensors)) {
    if (!args.some(([known]) => known === name)) {
      throw new TypeError(`Cannot run ${op.name}: it has no argument "${name}"`);
    }
  }
  for (const [name, type] of Object.entries(op.scalars ?? {})) {
    const value = scalars[name];
    if (value === undefined) {
      throw new TypeError(`Cannot run ${op.name}: scalar "${name}" is missing`);
    }
    // A device would take −1 for 2^32 − 1, and 0.5 for 0.
    if (type === "u32" && value !== value >>> 0) {
      throw new RangeError(
        `Cannot run ${op.name}: "${name}" must be a whole number from 0 to 2^32 − 1, got ${value}`,
      );
    }
  }
  for (const name of Object.keys(scalars)) {
    if (!(name in (op.scalars ?? {}))) {
      throw new TypeError(`Cannot run ${op.name}: it has no scalar "${name}"`);
    }
  }
  const verdict = op.check?.(dims, scalars) ?? true;
  if (verdict !== true) throw new RangeError(`Cannot run ${op.name}: ${verdict}`);
  return dims;
}

/** Bytes of a device tensor, rounded up to whole 32-bit words as kernels address them. */
export function deviceBytes(
  { dtype, shape }: { readonly dtype: DType; readonly shape: Shape },
): number {
  const bits = shape.reduce((n, size) => n * size, BITS[dtype]);
  return Math.max(4, Math.ceil(bits / 32) * 4);
}
