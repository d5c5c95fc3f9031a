/**
 * A part of a call that a device has made, held against the op's definition. Nothing is said where
 * that would be a guess: of arguments that are not finite or huge, of elements that are not finite,
 * and of what a device may take for 0.
 */
import { argumentsOf, type Op, parseSignature, type Scalars } from "../op.ts";
import { type Seen, type Values, valuesOf, type Wrong } from "../sampling.ts";
import { referenceBackend } from "./reference.ts";
import { type Cut, partOf, placeOf } from "./tensor_parts.ts";

/** A part of an argument, as it came from the device. */
export interface Copied {
  readonly cut: Cut;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** A part of a call, which is a call by itself. */
export interface Sample {
  readonly op: Op;
  readonly scalars: Scalars;
  /** The inputs, and of ops that update outputs these too, before the call. */
  readonly before: Readonly<Record<string, Copied>>;
  /** The outputs after it. */
  readonly after: Readonly<Record<string, Copied>>;
}

/** A sentence, or that nothing is known. */
export type Difference = { readonly told: string } | "unknown";

/** From here on sums of products of two numbers come near the end of f32. */
const LARGEST = 2 ** 50;
/** The smallest normal number of f32: a device may take what is below for 0. */
const SMALLEST = 2 ** -126;
/** What such numbers may come to in a result. */
const DUST = 2 ** -100;

/**
 * What is wrong with a part, as in `add gave x[7] = 3, and its definition 1 ± 1e-7`; undefined if
 * nothing is, and `unknown` where nothing can be said of any of it.
 */
export async function differenceOf(sample: Sample): Promise<Difference | undefined> {
  const { op, scalars, after } = sample;
  const tensors = Object.fromEntries(
    Object.entries({ ...after, ...sample.before }).map(([name, { cut, bytes }]) => [
      name,
      { ...cut, bytes: name in sample.before ? partOf(cut, bytes) : undefined },
    ]),
  );
  const before: Record<string, Values> = {};
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    const size = shape.reduce((n, side) => n * side, 1);
    before[name] = bytes ? valuesOf(dtype, bytes) : new Float32Array(size);
    if (name in op.inputs && isFloat(dtype) && !before[name].every(isTame)) return "unknown";
  }
  const define = async (flush: boolean): Promise<Record<string, Values>> => {
    await using definition = referenceBackend();
    const own = Object.fromEntries(
      Object.entries(tensors).map(([name, { dtype, shape, bytes }]) => {
        const tensor = definition.alloc(dtype, shape);
        if (bytes) definition.write(tensor, flush ? withoutSubnormals(dtype, bytes) : bytes);
        return [name, tensor];
      }),
    );
    definition.run(op, own, scalars);
    const outputs = Object.keys(op.outputs);
    const read = await definition.read(...outputs.map((name) => own[name]!));
    return Object.fromEntries(
      outputs.map((name, i) => [name, valuesOf(own[name]!.dtype, read[i]!)]),
    );
  };
  const got = Object.fromEntries(
    Object.entries(after).map(([name, { cut, bytes }]) => [
      name,
      valuesOf(cut.dtype, partOf(cut, bytes)),
    ]),
  );
  const dims = Object.fromEntries(
    argumentsOf(op).flatMap(([name, signature]) =>
      parseSignature(signature).dims.map((dim, i) => [dim, tensors[name]!.shape[i]!])
    ),
  );
  const call = { dims, scalars, before, got };
  const tell = ({ output, index, right, allowed }: Wrong): Difference => {
    const place = placeOf(after[output]!.cut, index);
    const by = allowed > 0 ? ` ± ${allowed.toPrecision(2)}` : "";
    const gave = `${op.name} gave ${output}[${place}] = ${got[output]![index]}`;
    return { told: `${gave}, and its definition ${right}${by}` };
  };
  if (op.sampling?.follow) {
    const wrong = op.sampling.follow(call);
    return wrong && tell(wrong);
  }
  const want = await define(false);
  const flushes = Object.entries(before).some(([name, values]) =>
    isFloat(tensors[name]!.dtype) && values.some((x) => x !== 0 && Math.abs(x) < SMALLEST)
  );
  const seen: Seen = { ...call, want };
  const wrong = firstWrong(op, seen);
  if (!wrong) return undefined;
  if (flushes && !firstWrong(op, { ...seen, want: await define(true) })) return undefined;
  return tell(wrong);
}

/** The first element that is further from the definition than its op allows. */
function firstWrong({ outputs, sampling }: Op, seen: Seen): Wrong | undefined {
  for (const output of Object.keys(outputs)) {
    const [want, got] = [seen.want[output]!, seen.got[output]!];
    const allowed = sampling?.bounds?.[output]?.(seen);
    const { near, unpack } = sampling?.ties?.[output] ?? {};
    const tie = near?.(seen);
    // Codes to an element; past the end of the last there is no tie.
    const each = tie && unpack ? Math.round(unpack(want).length / want.length) : 1;
    for (let index = 0; index < want.length; index++) {
      const [right, value] = [want[index]!, got[index]!];
      if (value === right || !isTame(right)) continue;
      const off = allowed?.[index] ?? 0;
      if (Math.abs(value - right) <= off + DUST || !(off < Infinity)) continue;
      if (tie) {
        const codes = Array.from({ length: each }, (_, i) => index * each + i);
        if (codes.some((code) => tie[code])) continue;
      }
      return { output, index, right, allowed: off };
    }
  }
  return undefined;
}

function isFloat(dtype: string): boolean {
  return dtype === "f32" || dtype === "bf16" || dtype === "f16" || dtype === "f8_e4m3";
}

function isTame(value: number): boolean {
  return Math.abs(value) < LARGEST;
}

/** The same numbers with 0 for those that are not normal in f32. */
export function withoutSubnormals(
  dtype: string,
  bytes: Uint8Array<ArrayBuffer>,
): Uint8Array<ArrayBuffer> {
  if (dtype !== "f32" && dtype !== "bf16") return bytes;
  const copy = bytes.slice();
  const words = dtype === "f32" ? new Uint32Array(copy.buffer) : new Uint16Array(copy.buffer);
  const exponent = dtype === "f32" ? 0x7f800000 : 0x7f80;
  words.forEach((word, i) => {
    if ((word & exponent) === 0) words[i] = 0;
  });
  return copy;
}
