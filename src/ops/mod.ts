/**
 * Every op, each in its own file: a signature, a definition, and its WGSL in shaders/. To add one,
 * add a file and a row.
 */
import type { Op } from "../op.ts";
import { act } from "./act.ts";
import { actVjp } from "./act_vjp.ts";
import { adam } from "./adam.ts";
import { add } from "./add.ts";
import { addBias } from "./add_bias.ts";
import { attention } from "./attention.ts";
import { attentionVjpKv } from "./attention_vjp_kv.ts";
import { attentionVjpQ } from "./attention_vjp_q.ts";
import { columnStats } from "./column_stats.ts";
import { copy } from "./copy.ts";
import { dequantize4bit } from "./dequantize_4bit.ts";
import { dequantizeCodebook } from "./dequantize_codebook.ts";
import { dequantizeDynamic8 } from "./dequantize_dynamic8.ts";
import { dequantizeFp8 } from "./dequantize_fp8.ts";
import { dequantizeInt } from "./dequantize_int.ts";
import { descendBlock } from "./descend_block.ts";
import { diagonal } from "./diagonal.ts";
import { divergence } from "./divergence.ts";
import { divergenceVjp } from "./divergence_vjp.ts";
import { embedding } from "./embedding.ts";
import { errorSums } from "./error_sums.ts";
import { factorBlock } from "./factor_block.ts";
import { fakeQuantize } from "./fake_quantize.ts";
import { fakeQuantizeRows } from "./fake_quantize_rows.ts";
import { floatBins } from "./float_bins.ts";
import { gate } from "./gate.ts";
import { gateVjp } from "./gate_vjp.ts";
import { gatherColumns } from "./gather_columns.ts";
import { gemm } from "./gemm.ts";
import { gptqBlock } from "./gptq_block.ts";
import { histogram } from "./histogram.ts";
import { hqqParams } from "./hqq_params.ts";
import { layerNorm } from "./layer_norm.ts";
import { layerNormVjp } from "./layer_norm_vjp.ts";
import { matmulColumns } from "./matmul_columns.ts";
import { matmulInt8 } from "./matmul_int8.ts";
import { matmulNt } from "./matmul_nt.ts";
import { matmulPacked } from "./matmul_packed.ts";
import { mirror } from "./mirror.ts";
import { narrow } from "./narrow.ts";
import { nllVjp } from "./nll_vjp.ts";
import { outlierColumns } from "./outlier_columns.ts";
import { packBits } from "./pack_bits.ts";
import { permuteColumns } from "./permute_columns.ts";
import { permuteGram } from "./permute_gram.ts";
import { quantize4bit } from "./quantize_4bit.ts";
import { quantizeCodebook } from "./quantize_codebook.ts";
import { quantizeDynamic8 } from "./quantize_dynamic8.ts";
import { quantizeFp8 } from "./quantize_fp8.ts";
import { quantizeInt } from "./quantize_int.ts";
import { quantizeRowsInt8 } from "./quantize_rows_int8.ts";
import { refitScales } from "./refit_scales.ts";
import { rescaleInt8 } from "./rescale_int8.ts";
import { rmsNorm } from "./rms_norm.ts";
import { rmsNormVjp } from "./rms_norm_vjp.ts";
import { rope } from "./rope.ts";
import { rowDots } from "./row_dots.ts";
import { scaleCap } from "./scale_cap.ts";
import { scaleCapVjp } from "./scale_cap_vjp.ts";
import { scaleParams } from "./scale_params.ts";
import { scaleRows } from "./scale_rows.ts";
import { searchParams } from "./search_params.ts";
import { scaleSlopes } from "./scale_slopes.ts";
import { startLatents } from "./start_latents.ts";
import { stepLatents } from "./step_latents.ts";
import { stepScales } from "./step_scales.ts";
import { subtract } from "./subtract.ts";
import { tileRange } from "./tile_range.ts";
import { unpackBits } from "./unpack_bits.ts";
import { widen } from "./widen.ts";
import { zeroSlopes } from "./zero_slopes.ts";

export {
  act,
  actVjp,
  adam,
  add,
  addBias,
  attention,
  attentionVjpKv,
  attentionVjpQ,
  columnStats,
  copy,
  dequantize4bit,
  dequantizeCodebook,
  dequantizeDynamic8,
  dequantizeFp8,
  dequantizeInt,
  descendBlock,
  diagonal,
  divergence,
  divergenceVjp,
  embedding,
  errorSums,
  factorBlock,
  fakeQuantize,
  fakeQuantizeRows,
  floatBins,
  gate,
  gateVjp,
  gatherColumns,
  gemm,
  gptqBlock,
  histogram,
  hqqParams,
  layerNorm,
  layerNormVjp,
  matmulColumns,
  matmulInt8,
  matmulNt,
  matmulPacked,
  mirror,
  narrow,
  nllVjp,
  outlierColumns,
  packBits,
  permuteColumns,
  permuteGram,
  quantize4bit,
  quantizeCodebook,
  quantizeDynamic8,
  quantizeFp8,
  quantizeInt,
  quantizeRowsInt8,
  refitScales,
  rescaleInt8,
  rmsNorm,
  rmsNormVjp,
  rope,
  rowDots,
  scaleCap,
  scaleCapVjp,
  scaleParams,
  scaleRows,
  scaleSlopes,
  searchParams,
  startLatents,
  stepLatents,
  stepScales,
  subtract,
  tileRange,
  unpackBits,
  widen,
  zeroSlopes,
};

/** All ops. */
export const OPS: readonly Op[] = [
  widen,
  narrow,
  tileRange,
  scaleParams,
  quantizeInt,
  dequantizeInt,
  searchParams,
  hqqParams,
  packBits,
  unpackBits,
  quantize4bit,
  dequantize4bit,
  quantizeDynamic8,
  dequantizeDynamic8,
  quantizeCodebook,
  dequantizeCodebook,
  quantizeRowsInt8,
  outlierColumns,
  matmulInt8,
  rescaleInt8,
  matmulColumns,
  matmulNt,
  matmulPacked,
  embedding,
  rmsNorm,
  rope,
  attention,
  layerNorm,
  act,
  gate,
  scaleCap,
  gatherColumns,
  add,
  addBias,
  divergence,
  fakeQuantize,
  fakeQuantizeRows,
  errorSums,
  floatBins,
  histogram,
  quantizeFp8,
  dequantizeFp8,
  gemm,
  copy,
  mirror,
  permuteGram,
  permuteColumns,
  factorBlock,
  gptqBlock,
  descendBlock,
  refitScales,
  rowDots,
  subtract,
  columnStats,
  diagonal,
  scaleRows,
  rmsNormVjp,
  layerNormVjp,
  attentionVjpQ,
  attentionVjpKv,
  actVjp,
  gateVjp,
  scaleCapVjp,
  divergenceVjp,
  nllVjp,
  startLatents,
  adam,
  scaleSlopes,
  zeroSlopes,
  stepLatents,
  stepScales,
];
