/**
 * What rate-distortion curves are drawn for: weights of a model, and numbers by chance of three
 * distributions that weights are likened to, with the least distortion that any code has.
 */
import { uniform } from "../corpora/random.ts";
import { transpose } from "../linalg/transpose.ts";
import { bytesFrom } from "../number.ts";
import type { TensorSource } from "../source.ts";
import { BITS, matrixShape, type TensorInfo } from "../tensor.ts";

/** A matrix to quantize. */
export interface DataSet {
  readonly name: string;
  readonly dtype: "f32" | "bf16" | "f16";
  readonly shape: readonly [rows: number, columns: number];
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The dtype that its scales and tables are stored in. */
  readonly scaleDType: "f32" | "bf16" | "f16";
  /**
   * Shannon's lower bound at 0 bits, as a share of the variance: no code of R bits a value has less
   * distortion than this times 2^(−2R). For weights that of a normal distribution, 1, which bounds
   * no other one, and to which others are compared.
   */
  readonly bound: number;
}

/** Rows and columns of drawn data. */
const DRAWN: readonly [number, number] = [512, 512];

/** Degrees of freedom of Student's t. */
const FREEDOM = 5;

/**
 * The entropy of Student's t with 5 degrees of freedom, in nats: (ν + 1)/2·(ψ((ν + 1)/2) − ψ(ν/2))
 * + ln(√ν·B(ν/2, 1/2)).
 */
const STUDENT_ENTROPY = 3 * (3 / 2 - 8 / 3 + 2 * Math.LN2) +
  Math.log(Math.sqrt(5) * 3 * Math.PI / 8);

/** A distribution of variance 1. */
interface Distribution {
  readonly name: string;
  /** exp(2h)/2πe, h the entropy in nats: Shannon's lower bound at 0 bits. */
  readonly bound: number;
  draw(next: () => number): number;
}

/** One of the two numbers that Box and Muller make. */
function normal(next: () => number): number {
  return Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
}

/** The distributions that are drawn from. */
export const DISTRIBUTIONS: readonly Distribution[] = [
  { name: "normal", bound: 1, draw: normal },
  {
    name: "Laplace",
    bound: Math.E / Math.PI,
    draw(next) {
      const u = next() - 0.5;
      return -Math.sign(u) * Math.log(1 - 2 * Math.abs(u)) * Math.SQRT1_2;
    },
  },
  {
    name: `Student t, ${FREEDOM} degrees of freedom`,
    bound: Math.exp(2 * STUDENT_ENTROPY) / (2 * Math.PI * Math.E) * (FREEDOM - 2) / FREEDOM,
    draw(next) {
      const top = normal(next);
      let squares = 0;
      for (let i = 0; i < FREEDOM; i++) squares += normal(next) ** 2;
      return top * Math.sqrt((FREEDOM - 2) / squares);
    },
  },
];

/** Numbers of each distribution, f32[512, 512], the same for the same seed. */
export function drawnData(seed: number): DataSet[] {
  const [rows, columns] = DRAWN;
  return DISTRIBUTIONS.map(({ name, bound, draw }, i) => {
    const next = uniform(seed + i);
    const values = Float32Array.from({ length: rows * columns }, () => draw(next));
    const bytes = bytesFrom("f32", values);
    return { name, dtype: "f32", shape: DRAWN, bytes, scaleDType: "bf16", bound };
  });
}

/** Weights that are looked at, of one tensor; its first rows. */
const MOST_WEIGHTS = 2 ** 22;

/**
 * A weight of a model, [outputs, inputs]; of a large one the first rows.
 *
 * @param turned The tensor holds inputs by outputs.
 */
export async function weightData(
  { name, dtype, shape }: TensorInfo,
  source: TensorSource,
  { turned }: { readonly turned: boolean },
): Promise<DataSet> {
  const [height, width] = matrixShape(shape);
  const kind = dtype as DataSet["dtype"];
  if (turned) {
    const all = await source.read(name);
    const bytes = transpose(all, { rows: height, columns: width, bits: BITS[dtype] });
    return { name, dtype: kind, shape: [width, height], bytes, scaleDType: kind, bound: 1 };
  }
  const rows = Math.min(height, Math.max(1, Math.floor(MOST_WEIGHTS / width)));
  const bytes = await source.read(name, { from: 0, to: rows });
  return { name, dtype: kind, shape: [rows, width], bytes, scaleDType: kind, bound: 1 };
}
