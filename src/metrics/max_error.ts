/** The largest error of one weight. */
import type { Metric } from "../metric.ts";

/** max |w − ŵ|. */
export const maxError: Metric = {
  name: "max_error",
  unit: "",
  summary: "largest |w - w'|",
  compute(sums) {
    return sums.maxError;
  },
};
