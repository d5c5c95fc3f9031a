/** No quantization: the weight in another float dtype. */
import type { Quantized, SchemeKind } from "../scheme.ts";
import type { Scope, Tensor } from "../backend.ts";
import { add } from "../ops/add.ts";
import { matmulNt } from "../ops/matmul_nt.ts";
import { narrow } from "../ops/narrow.ts";
import { widen } from "../ops/widen.ts";
import type { CastScheme } from "../scheme.ts";
import { BITS, elementCount, matrixShape, type Shape } from "../tensor.ts";

/** −0, so that adding to it keeps the sign of a zero. */
const NEGATIVE_ZERO = 0x80000000;

/** `weight` f32|bf16|f16 as f32 in memory of its own. */
function widened(weight: Tensor, shape: Shape, scope: Scope): Tensor {
  const wide = scope.alloc("f32", shape);
  if (weight.dtype === "f32") {
    const zeros = new Uint32Array(elementCount(shape)).fill(NEGATIVE_ZERO);
    scope.backend.write(wide, new Uint8Array(zeros.buffer));
    scope.backend.run(add, { y: weight, x: wide }, { times: 1, other: 1 });
  } else {
    scope.backend.run(widen, { x: weight, y: wide });
  }
  return wide;
}

/** See {@linkcode CastScheme}. */
export const cast: SchemeKind<CastScheme> = {
  kinds: ["cast"],
  label({ dtype }) {
    return dtype;
  },
  check() {
    return true;
  },
  rowStep() {
    return 1;
  },
  workBytes({ dtype }, rows, columns) {
    return rows * columns * (4 + (dtype === "f32" ? 0 : BITS[dtype] / 8));
  },
  codeBytes({ dtype }, rows, columns) {
    return rows * columns * BITS[dtype] / 8;
  },
  linearBytes() {
    return 0;
  },
  quantize(scheme, weight, { scope, search }) {
    if (search !== "minmax") throw new RangeError("Cannot search scales for a cast: it has none");
    const [rows, columns] = matrixShape(weight.shape);
    const { backend } = scope;
    let tensor: Tensor;
    if (scheme.dtype === "f32") {
      tensor = widened(weight, [rows, columns], scope);
    } else {
      using scratch = backend.scope();
      tensor = scope.alloc(scheme.dtype, [rows, columns]);
      const wide = weight.dtype === "f32" ? weight : widened(weight, [rows, columns], scratch);
      backend.run(narrow, { x: wide, y: tensor });
    }
    return { scheme, rows, columns, tensors: { weight: tensor } };
  },
  dequantize({ rows, columns, tensors }: Quantized, scope) {
    return widened(tensors.weight!, [rows, columns], scope);
  },
  linear({ tensors }, x, y, { scope, column }) {
    scope.backend.run(matmulNt, { x, w: tensors.weight!, y }, { column });
  },
};
