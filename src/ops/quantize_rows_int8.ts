/** For LLM.int8(): weights by output row, activations by token. */
import wgsl from "../../shaders/quantize_rows_int8.wgsl" with { type: "text" };
import { roundHalfEven } from "../number.ts";
import { defineOp, fold } from "../op.ts";
import { clamp } from "./grid.ts";

/**
 * Row-wise int8 (LLM.int8(), arXiv 2208.07339; bitsandbytes' int8_vectorwise_quant): codes
 * rn(x·(127/absmax)). Skipped columns and rows of zeros have codes 0; a row that is not finite has
 * absmax +∞. As in bitsandbytes, absmax leaves out the outliers themselves, not their columns: what
 * is below `threshold` in a skipped column counts (threshold 0: nothing of it does).
 */
export const quantizeRowsInt8 = defineOp({
  name: "quantize_rows_int8",
  inputs: { x: "f32|bf16|f16[T, C]", skip: "u32[C]" },
  outputs: { codes: "i8[T, C]", absmax: "f32[T]" },
  scalars: { threshold: "f32" },
  wgsl,
  workgroups: ({ T = 0 }) => fold(Math.ceil(T / 4)),
  reference({ x, skip, codes, absmax }, { T = 0, C = 0 }, { threshold = 0 }) {
    for (let t = 0; t < T; t++) {
      let most = 0;
      for (let c = 0; c < C; c++) {
        const size = Math.abs(x![t * C + c]!);
        if (!skip![c] || size < threshold) most = Math.max(most, size);
      }
      if (!Number.isFinite(most)) most = Infinity;
      absmax![t] = most;
      const factor = Math.fround(127 / most);
      for (let c = 0; c < C; c++) {
        const zero = skip![c] || most === 0 || most === Infinity;
        const code = zero ? 0 : roundHalfEven(Math.fround(x![t * C + c]! * factor));
        codes![t * C + c] = clamp(code, -127, 127);
      }
    }
  },
});
