/** How far one tensor moved. Implementations: metrics/, listed in metrics/mod.ts. */

/**
 * Running sums over a weight and its dequantized values, slice after slice; float64 on the host.
 * Gathered by metrics/sums.ts.
 */
export interface ErrorSums {
  readonly count: number;
  /** Σ w² */
  readonly signal: number;
  /** Σ ŵ² */
  readonly energy: number;
  /** Σ w·ŵ */
  readonly cross: number;
  /** Σ (w − ŵ)² */
  readonly noise: number;
  /** max |w − ŵ| */
  readonly maxError: number;
  /** max |w| */
  readonly peak: number;
  /** Histograms of w and ŵ over [−range, range], for the earth mover's distance. */
  readonly original: Uint32Array;
  readonly quantized: Uint32Array;
  readonly range: number;
}

/** One number about a quantized weight. */
export interface Metric {
  /** Column name in tables and CSV: `sqnr_db`. */
  readonly name: string;
  readonly unit: string;
  /** What it is and where it comes from, one line. */
  readonly summary: string;
  compute(sums: ErrorSums): number;
}
