/**
 * Weights under their own names, as floats: what every loader opens. Holds casts, and the values
 * that weights were rounded to, in the dtype the weights had. Refuses schemes that round
 * activations too: nothing would.
 */
import type { Format, Packer, Verdict } from "../format.ts";
import { activationsOf, type Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";
import { transpose } from "../linalg/transpose.ts";
import { BITS, matrixShape, type TensorInfo } from "../tensor.ts";
import { refuseNaN } from "../number.ts";
import { checkCast, checkRows, checkSource, isScaleDType, narrowed, readPart } from "./bytes.ts";

/** The dtype in which a weight is stored. */
function storedDType({ name, dtype }: TensorInfo, scheme: Scheme): "bf16" | "f16" | "f32" {
  if (scheme.kind === "cast") return scheme.dtype;
  if (isScaleDType(dtype)) return dtype;
  throw new TypeError(`Cannot store the rounded values of "${name}" in ${dtype}`);
}

/** A checkpoint that is not quantized, with its weights cast or rounded. */
export const plain: Format = {
  name: "plain",
  quantMethod: undefined,
  supports(scheme, weight) {
    if (scheme.kind === "llm_int8" || activationsOf(scheme) !== "none") {
      return "plain holds weights alone, and this scheme rounds activations too; W8A16 and FP8 round " +
        "weights alone";
    }
    if ("doubleQuant" in scheme && scheme.doubleQuant) {
      return "plain holds values, and double quantization rounds them once more when bitsandbytes " +
        "packs them; turn it off (double_quant: false)";
    }
    const source = checkSource("plain", { ...weight, name: "any.weight", shape: [1, 1] });
    return source === true || `"${weight.name}" is ${weight.dtype}; f32, bf16 and f16 are cast`;
  },
  rowStep: () => 1,
  layout(weight, scheme): TensorInfo[] {
    const { name, shape, transposed } = weight;
    const dtype = storedDType(weight, scheme);
    return [{ name, dtype, shape: transposed ? shape.toReversed() : shape }];
  },
  packer(weight, scheme, scope): Packer {
    const { name, shape, transposed } = weight;
    const dtype = storedDType(weight, scheme);
    const [rows, columns] = matrixShape(shape);
    const bits = BITS[dtype];
    // Turned back when all of it is there.
    const whole = transposed ? new Uint8Array(rows * columns * bits / 8) : undefined;
    return {
      async add(quantized, slice) {
        checkRows(slice, { name, rows, step: schemeKind(scheme).rowStep(scheme, [rows, columns]) });
        using scratch = scope.backend.scope();
        const tensor = scheme.kind === "cast"
          ? quantized.tensors.weight!
          : narrowed(schemeKind(scheme).dequantize(quantized, scratch), dtype, scratch);
        const [bytes] = await scope.backend.read(tensor) as [Uint8Array<ArrayBuffer>];
        refuseNaN({ name, dtype }, bytes, "cast");
        checkCast(bytes, dtype, name);
        const offset = slice.from * columns * bits / 8;
        if (!whole) return [{ tensor: name, offset, bytes }];
        whole.set(bytes, offset);
        return [];
      },
      finish() {
        const bytes = whole && transpose(whole, { rows, columns, bits });
        return Promise.resolve(bytes ? [{ tensor: name, offset: 0, bytes }] : []);
      },
    };
  },
  section: () => undefined,
  recognize: () => Promise.resolve(undefined),
  async unpack({ shape, parts, name, transposed }, read, { scope, rows }) {
    const [height, columns] = matrixShape(shape);
    const slice = rows ?? { from: 0, to: height };
    checkRows(slice, { name, rows: height, step: 1 });
    const [part] = parts as [TensorInfo];
    const dtype = part.dtype as "bf16" | "f16" | "f32";
    const count = slice.to - slice.from;
    const weight = scope.alloc(dtype, [count, columns]);
    const bits = BITS[dtype];
    const bytes = transposed
      ? transpose(await readPart(part, read), { rows: columns, columns: height, bits })
        .slice(slice.from * columns * bits / 8, slice.to * columns * bits / 8)
      : await readPart(part, read, rows);
    scope.backend.write(weight, bytes);
    return { scheme: { kind: "cast", dtype }, rows: count, columns, tensors: { weight } };
  },
  loaders({ config, misfit }): Verdict[] {
    if (misfit !== undefined) return [{ name: "any", opens: "unknown", why: misfit }];
    const described = config.model_type !== undefined;
    return [{
      name: "any",
      opens: described ? "yes" : "unknown",
      why: described
        ? "whatever opens the original: weights have their own names, and a dtype every loader reads"
        : "config.json does not say what model it is (model_type); any reader of safetensors reads it",
    }];
  },
};
