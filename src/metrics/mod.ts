/** The metrics of one quantized weight. To add one: a file beside this, and a row here. */
import type { Metric } from "../metric.ts";
import { cosine } from "./cosine.ts";
import { emd } from "./emd.ts";
import { maxError } from "./max_error.ts";
import { psnr } from "./psnr.ts";
import { sqnr } from "./sqnr.ts";

export { ErrorGatherer } from "./sums.ts";

/** Every metric, in the order of table columns. */
export const METRICS: readonly Metric[] = [sqnr, psnr, cosine, emd, maxError];
