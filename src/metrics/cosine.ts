/** Cosine similarity of the flattened weights. */
import type { Metric } from "../metric.ts";

/** Σw·ŵ / √(Σw² · Σŵ²); 1 when both are all zeros, 0 when one is. */
export const cosine: Metric = {
  name: "cosine",
  unit: "",
  summary: "cosine similarity of the flattened weights",
  compute({ signal, energy, cross }) {
    if (signal === 0 && energy === 0) return 1;
    if (signal === 0 || energy === 0) return 0;
    return cross / (Math.sqrt(signal) * Math.sqrt(energy));
  },
};
