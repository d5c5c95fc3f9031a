/**
 * What is measured of one weight while its slices pass by: the sums of the metrics, and if they are
 * wanted the distributions of its values and codes.
 */
import type { Backend, Tensor } from "../backend.ts";
import { CodeCounter, type Distribution, reduceHistograms } from "../metrics/distribution.ts";
import { ErrorGatherer, METRICS } from "../metrics/mod.ts";
import type { Quantized, Scheme } from "../scheme.ts";

/** Measures one weight. Dispose it to free what it holds on the device. */
export class WeightMeasures implements Disposable {
  readonly #backend: Backend;
  readonly #errors: ErrorGatherer;
  readonly #codes: CodeCounter | undefined;

  constructor(
    backend: Backend,
    { scheme, distributions }: { readonly scheme: Scheme; readonly distributions: boolean },
  ) {
    this.#backend = backend;
    this.#errors = new ErrorGatherer(backend);
    this.#codes = distributions ? new CodeCounter(scheme) : undefined;
  }

  /**
   * Take in a slice: as it was, f32|bf16|f16[n, C], its codes, and what they stand for, f32[n, C].
   */
  async add(original: Tensor, quantized: Quantized, values: Tensor): Promise<void> {
    // A slice that the device has no memory for is measured again in halves: nothing is counted
    // before all went well.
    const codes = await this.#codes?.read(quantized, this.#backend);
    await this.#errors.add(original, values);
    if (codes) this.#codes?.add(codes, quantized);
  }

  /** By metric name. */
  metrics(): Readonly<Record<string, number>> {
    const sums = this.#errors.sums();
    return Object.fromEntries(METRICS.map((metric) => [metric.name, metric.compute(sums)]));
  }

  /** Undefined unless it was asked for. */
  distribution(): Distribution | undefined {
    if (!this.#codes) return undefined;
    const codes = this.#codes.counts();
    return { ...reduceHistograms(this.#errors.sums()), ...(codes ? { codes } : {}) };
  }

  [Symbol.dispose](): void {
    this.#errors[Symbol.dispose]();
  }
}
