/** Peak signal-to-noise ratio. */
import type { Metric } from "../metric.ts";

/** 10·log₁₀(peak² / mean (w − ŵ)²) with peak = max |w|; infinite when nothing changed. */
export const psnr: Metric = {
  name: "psnr_db",
  unit: "dB",
  summary:
    "peak signal-to-noise ratio, the peak being the largest weight: 10 log10(max|w|^2 / mean (w - w')^2)",
  compute({ peak, noise, count }) {
    return noise === 0 ? Infinity : 10 * Math.log10(peak ** 2 * count / noise);
  },
};
