// The kernels: each exported function but `probe…` is one op, named as the op, and takes the
// thread's number.
import { SCRATCH_BYTES } from "./call";
export { attention } from "./attention";
export { attention_vjp_kv, attention_vjp_q } from "./attention_vjp";
export { pack_bits, unpack_bits } from "./bits";
export { narrow, widen } from "./cast";
export { dequantize_4bit, dequantize_dynamic8, quantize_4bit, quantize_dynamic8 } from "./codebook";
export { factor_block, gptq_block } from "./gptq";
export { hqq_params } from "./hqq";
export { act, add, add_bias, embedding, gate, gather_columns, layer_norm, rms_norm, rope,
  scale_cap } from "./layer";
export { act_vjp, gate_vjp, layer_norm_vjp, rms_norm_vjp, scale_cap_vjp } from "./layer_vjp";
export { adam, scale_slopes, start_latents, step_latents, step_scales,
  zero_slopes } from "./latents";
export { gemm, matmul_columns, matmul_int8, matmul_nt, matmul_packed,
  rescale_int8 } from "./matmul";
export { column_stats, copy, diagonal, mirror, permute_columns, permute_gram, row_dots,
  subtract } from "./matrix";
export { divergence, error_sums, float_bins, histogram } from "./measure";
export { divergence_vjp, nll_vjp } from "./measure_vjp";
export { descend_block, refit_scales } from "./polish";
export { probeFused } from "./probe";
export {
  dequantize_fp8,
  dequantize_int,
  fake_quantize,
  fake_quantize_rows,
  quantize_fp8,
  quantize_int,
  scale_params,
  scale_rows,
  tile_range,
} from "./quantize";
export { outlier_columns, quantize_rows_int8 } from "./rows";
export { search_params } from "./search";
export { dequantize_codebook, quantize_codebook } from "./tables";

/** Bytes of scratch memory a thread must have. */
export const scratchBytes: i32 = SCRATCH_BYTES;

/** The first byte after the kernels' constants. */
export const heapBase: usize = __heap_base;
