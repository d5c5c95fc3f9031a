/** Signal-to-quantization-noise ratio. */
import type { Metric } from "../metric.ts";

/** 10·log₁₀(Σw² / Σ(w − ŵ)²); infinite when nothing changed. */
export const sqnr: Metric = {
  name: "sqnr_db",
  unit: "dB",
  summary: "signal-to-quantization-noise ratio: 10 log10(sum w^2 / sum (w - w')^2)",
  compute({ signal, noise }) {
    return noise === 0 ? Infinity : 10 * Math.log10(signal / noise);
  },
};
