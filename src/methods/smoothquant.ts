/**
 * SmoothQuant (Xiao et al., arXiv 2211.10438): channels of a linear's input that are large where
 * its weights are small are divided by a scale, and the weights multiplied by it, so that both
 * round well: s_j = max|X_j|^α / max|W_j|^(1−α), max|W_j| over all linears that read the input.
 *
 * The strength α is given, or searched for step by step as Intel's Neural Compressor does it: that
 * with the least squared error of the linears' outputs, inputs rounded as the scheme's runtime does
 * and weights to nearest, on a sample of tokens and rows. No smoothing is tried, too. An error
 * counts against the size of its token's output, or the few tokens whose activations are massive
 * would decide alone (on SmolLM2-135M, W8A8, two windows: KL 0.0083 in place of 0.0093).
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import { sampleRows, scaleColumns, upload } from "../linalg/channels.ts";
import { gatherChannels, magnitudesOf } from "../linalg/channel_stats.ts";
import { CheckpointError } from "../errors.ts";
import { Least } from "../ops/least.ts";
import type { SmoothableWeight, SmoothingMethod, SmoothingScales } from "../method.ts";
import { openObservations } from "../observer.ts";
import { absmax } from "../observers/absmax.ts";
import { SAMPLE_TOKENS, tokenSample } from "../observers/token_sample.ts";
import { matmulNt } from "../ops/matmul_nt.ts";
import { rowDots } from "../ops/row_dots.ts";
import { difference } from "../ops/subtract.ts";
import type { OptionValues } from "../option.ts";
import { activationsOf, type Quantized, type Scheme } from "../scheme.ts";
import { schemeKind } from "../schemes/mod.ts";

/** The strengths that a search tries. */
const GRID = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];

/** No scale is smaller. */
const LEAST_SCALE = 1e-5;

/** Rows of each weight whose outputs a search compares. */
const SAMPLE_ROWS = 128;

/** Rows of a weight that are on the device at once while its columns are measured. */
const CHUNK_ROWS = 1024;

/** See the head of this file. */
export const smoothquant: SmoothingMethod = {
  kind: "smoothing",
  name: "smoothquant",
  options: [{
    name: "alpha",
    type: "number",
    placeholder: "x",
    choices: ["search"],
    min: 0,
    max: 1,
    default: "search",
    help:
      "smoothquant: migration strength, how far the range of activations goes over to weights; search finds it for each layer",
  }],
  after: "norms and linears",
  needs: (_scheme, options) => strengthOf(options) === undefined ? [absmax, tokenSample] : [absmax],
  supports(scheme) {
    const rounds = activationsOf(scheme) !== "none";
    // Without rounded activations there is nothing to gain: weights only get harder to round.
    return rounds ||
      "smoothquant makes activations easier to round, and this scheme leaves them in float; awq moves scales for weights alone";
  },
  // Of each weight, sampled rows and their output; of one at a time, what is made of them.
  workBytes: ({ length }, channels) =>
    4 * Math.max(CHUNK_ROWS, 3 * SAMPLE_TOKENS + (length + 7) * SAMPLE_ROWS) * channels +
    4 * (length + 7) * SAMPLE_TOKENS * SAMPLE_ROWS,
  async smooth({ weights, options, statistics, backend, shared }) {
    const activations = perGroup(statistics.of(absmax), shared);
    const columns = perGroup(await columnSizes(weights, statistics.channels, backend), shared);
    const broken = activations.findIndex((size) => size === Infinity);
    if (broken >= 0) {
      throw new CheckpointError(
        `Cannot smooth the input of "${
          weights[0]!.name
        }": its channel ${broken} holds NaN or infinity.`,
        { tensor: weights[0]!.name },
      );
    }
    const sizes = { activations, columns };
    const given = strengthOf(options);
    if (given !== undefined) return { scales: scalesFor(sizes, given), strength: given };
    using scope = backend.scope();
    const targets: Tensor[] = [];
    for (const weight of weights) {
      targets.push(await weight.take(sampleRows(weight.rows, SAMPLE_ROWS), scope));
    }
    const trial = new Trial(weights, {
      targets,
      x: statistics.of(tokenSample),
      options,
      scope,
    });
    const best = new Least<SmoothingScales | undefined>(undefined);
    best.offer(undefined, await trial.error(undefined));
    for (const strength of GRID) {
      const scales = scalesFor(sizes, strength);
      best.offer({ scales, strength }, await trial.error(scales));
    }
    return best.value;
  },
};

/** α; undefined: to be searched for. */
function strengthOf({ alpha = "search" }: OptionValues): number | undefined {
  return alpha === "search" ? undefined : Number(alpha);
}

/** The largest magnitude in each column of all weights: f32[C]. */
async function columnSizes(
  weights: readonly SmoothableWeight[],
  channels: number,
  backend: Backend,
): Promise<Float32Array<ArrayBuffer>> {
  using scope = backend.scope();
  const columns = gatherChannels({ channels, scope });
  for (const { rows, take } of weights) {
    for (let from = 0; from < rows; from += CHUNK_ROWS) {
      using scratch = backend.scope();
      const count = Math.min(CHUNK_ROWS, rows - from);
      columns.add(await take(Uint32Array.from({ length: count }, (_, i) => from + i), scratch));
    }
  }
  return magnitudesOf(await columns.finish());
}

/** Channels that must share a scale have the largest size among them. */
function perGroup(
  sizes: Float32Array<ArrayBuffer>,
  shared: Uint32Array | undefined,
): Float32Array<ArrayBuffer> {
  if (!shared) return sizes;
  const most = new Map<number, number>();
  shared.forEach((group, c) => most.set(group, Math.max(most.get(group) ?? 0, sizes[c]!)));
  return sizes.map((_, c) => most.get(shared[c]!)!);
}

/** s = a^α / w^(1−α); 1 for channels that are always 0 or that no weight reads. */
function scalesFor(
  { activations, columns }: { activations: Float32Array; columns: Float32Array },
  strength: number,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(activations, (size, c) => {
    const weight = columns[c]!;
    if (size === 0 || weight === 0) return 1;
    return Math.max(LEAST_SCALE, size ** strength / weight ** (1 - strength));
  });
}

/** Outputs of a step's linears on a sample, as they are and as they become. */
class Trial {
  readonly #scope: Scope;
  readonly #x: Tensor;
  readonly #options: OptionValues;
  readonly #outputs: readonly {
    readonly weight: SmoothableWeight;
    /** f32[rows, C] */
    readonly target: Tensor;
    /** f32[tokens, rows] */
    readonly output: Tensor;
    /** f32[tokens]: Σ y² */
    readonly size: Tensor;
  }[];

  constructor(
    weights: readonly SmoothableWeight[],
    { targets, x, options, scope }: {
      /** Of each weight, sampled rows: f32[rows, C] */
      readonly targets: readonly Tensor[];
      readonly x: Tensor;
      readonly options: OptionValues;
      readonly scope: Scope;
    },
  ) {
    this.#scope = scope;
    this.#x = x;
    this.#options = options;
    this.#outputs = weights.map((weight, i) => {
      const target = targets[i]!;
      const output = scope.alloc("f32", [x.shape[0]!, target.shape[0]!]);
      scope.backend.run(matmulNt, { x, w: target, y: output }, { column: 0 });
      const size = scope.alloc("f32", [x.shape[0]!]);
      scope.backend.run(rowDots, { a: output, b: output, y: size });
      return { weight, target, output, size };
    });
  }

  /** Σ |y − ŷ|²/|y|² over tokens and linears, with the input divided by scales. */
  async error(scales: Float32Array | undefined): Promise<number> {
    const { backend } = this.#scope;
    using scope = backend.scope();
    const x = scales ? scaleColumns(this.#x, [scales.map((scale) => 1 / scale)], scope) : this.#x;
    const fixed = new Map<Scheme, Quantized["tensors"]>();
    const errors: Tensor[] = [];
    for (const { weight: { scheme }, target, output } of this.#outputs) {
      let inputs = fixed.get(scheme);
      if (!inputs) fixed.set(scheme, inputs = await this.#inputScale(scheme, x, scope));
      using scratch = backend.scope();
      const kind = schemeKind(scheme);
      const weight = scales ? scaleColumns(target, [scales], scratch) : target;
      const rounded = await kind.quantize(scheme, weight, { scope: scratch, search: "minmax" });
      const quantized = { ...rounded, tensors: { ...rounded.tensors, ...inputs } };
      const y = scratch.alloc("f32", output.shape);
      kind.linear(quantized, x, y, { scope: scratch, column: 0 });
      const e = difference(y, output, scratch);
      const dots = scope.alloc("f32", [output.shape[0]!]);
      backend.run(rowDots, { a: e, b: e, y: dots });
      errors.push(dots);
    }
    const read = await backend.read(...errors, ...this.#outputs.map(({ size }) => size));
    const floats = read.map(({ buffer }) => new Float32Array(buffer));
    return floats.slice(0, errors.length).reduce((all, error, i) => {
      const size = floats[errors.length + i]!;
      // A token whose output is 0 has nothing to lose.
      return all + error.reduce((sum, e, t) => sum + (size[t]! > 0 ? e / size[t]! : 0), 0);
    }, 0);
  }

  /**
   * The scale that would be fixed for this input, as a tensor of the weights'; none where none is.
   */
  async #inputScale(scheme: Scheme, x: Tensor, scope: Scope): Promise<Quantized["tensors"]> {
    const found = schemeKind(scheme).inputScale;
    const observer = found?.observer(scheme, this.#options);
    if (!found || !observer) return {};
    const [tokens = 0, channels = 0] = x.shape;
    const observations = openObservations([observer], { channels, tokens, scope });
    await observations.add(x);
    const scale = found.find(scheme, await observations.finish(), this.#options);
    return { input_scale: upload(Float32Array.of(scale), scope) };
  }
}
