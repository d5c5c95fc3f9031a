/**
 * From the parts of a family to a model of this checkpoint: names get their prefixes, every tensor
 * is looked for, shapes are derived from the graph. Text towers within wrappers are found by where
 * their embedding is.
 *
 * Refused: checkpoints that lack a tensor, and biases that config.json does not announce
 * (transformers would leave them out, and the measured model would not be the one that is loaded).
 */
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { Block, Embedding, Family, Head, Linear, Model, Node, Norm } from "../family.ts";
import type { Shape } from "../tensor.ts";
import type { Path } from "./parts.ts";
import { ConfigReader } from "./read.ts";
import type { Rotary } from "./rotary.ts";

/**
 * What a family says of a model. Names of the ends are relative to `root`, those of a block to the
 * block.
 */
export interface Description {
  readonly hiddenSize: number;
  readonly vocabSize: number;
  readonly maxPositions: number;
  /**
   * What may stand before the names of the ends and the layers, the first where the embedding is
   * found: `model.`.
   */
  readonly roots: readonly string[];
  readonly embedding: Embedding;
  /** Blocks are called `<root><layers>.<number>`. */
  readonly layers: string;
  readonly blocks: readonly Path[];
  readonly rotary?: Rotary | undefined;
  readonly final?: Norm | undefined;
  readonly head: Omit<Head, "linear"> & {
    /** Names of its weight, whole, the first that is there. */
    readonly weight: readonly string[];
    /** Whether it is the embedding table where it has no tensor of its own. */
    readonly tied: boolean;
  };
}

/** A family, from what it reads of a config. */
export function family(
  modelTypes: readonly string[],
  describe: (c: ConfigReader) => Description,
): Family {
  return {
    modelTypes,
    configure(config, has) {
      const c = new ConfigReader(config, has);
      return makeModel(describe(c), { modelType: c.text("model_type"), has });
    },
  };
}

/**
 * What text towers are called: their own, those of transformers 5 within wrappers, those of older
 * wrappers, and without any prefix.
 */
export const TEXT_ROOTS: readonly string[] = [
  "model.",
  "model.language_model.",
  "language_model.model.",
  "",
];

/** What heads are called. */
export const TEXT_HEADS: readonly string[] = ["lm_head.weight", "language_model.lm_head.weight"];

interface Checkpoint {
  readonly modelType: string;
  readonly has: (tensor: string) => boolean;
}

function makeModel(described: Description, { modelType, has }: Checkpoint): Model {
  const { hiddenSize, vocabSize, maxPositions, roots, layers } = described;
  const shapes = new Map<string, Shape>();
  const need = (tensor: string, shape: Shape): void => {
    if (!has(tensor)) {
      throw new CheckpointError(
        `Cannot run this model: config.json describes a ${modelType} of ${described.blocks.length} ` +
          `layers, but the checkpoint has no tensor "${tensor}".`,
        { tensor },
      );
    }
    shapes.set(tensor, shape);
  };
  const root = roots.find((root) => has(root + described.embedding.table)) ?? roots[0]!;
  const embedding = prefixEmbedding(described.embedding, root);
  need(embedding.table, [vocabSize, hiddenSize]);
  if (embedding.positions) {
    const { table, offset } = embedding.positions;
    need(table, [maxPositions + offset, hiddenSize]);
  }
  if (embedding.norm) needNorm(embedding.norm, hiddenSize, need);
  const blocks = described.blocks.map(({ input, output, nodes }, i): Block => {
    const name = `${root}${layers}.${i}`;
    const block = {
      name,
      input,
      output,
      nodes: nodes.map((node) => prefixNode(node, `${name}.`)),
    };
    needBlock(block, hiddenSize, { need, has });
    return block;
  });
  const final = described.final && prefixNorm(described.final, root);
  if (final) needNorm(final, hiddenSize, need);
  const head = makeHead(described, { embedding, need, has });
  return {
    modelType,
    hiddenSize,
    vocabSize,
    maxPositions,
    embedding,
    blocks,
    rotary: described.rotary?.tables ?? {},
    ...(final ? { final } : {}),
    ...(head ? { head } : {}),
    shapes,
  };
}

function makeHead(
  { head: { weight: names, tied, ...rest }, vocabSize, hiddenSize }: Description,
  { embedding, need, has }: {
    readonly embedding: Embedding;
    readonly need: Need;
    readonly has: Checkpoint["has"];
  },
): Head | undefined {
  // A head of its own is used even where the config says "tied": transformers ties the two only
  // when they are equal.
  const weight = names.find(has) ?? (tied ? embedding.table : undefined);
  if (weight === undefined) return undefined;
  need(weight, [vocabSize, hiddenSize]);
  return {
    ...rest,
    linear: { at: { of: weight }, rows: vocabSize, columns: hiddenSize },
  };
}

type Need = (tensor: string, shape: Shape) => void;

/** Ask for every tensor of a block. */
function needBlock(
  { name, input, nodes }: Block,
  hiddenSize: number,
  { need, has }: { need: Need; has: Checkpoint["has"] },
): void {
  const widths = new Map([[input, hiddenSize]]);
  const width = (state: string) => {
    const found = widths.get(state);
    if (found === undefined) throw new TypeError(`${name} reads "${state}" before it is written`);
    return found;
  };
  const linears: Linear[] = [];
  for (const node of nodes) {
    switch (node.op) {
      case "norm":
        needNorm(node.norm, width(node.from), need);
        widths.set(node.to, width(node.from));
        break;
      case "linears":
        for (const [to, linear] of Object.entries(node.to)) {
          if (linear.columns !== width(node.from)) {
            throw new TypeError(
              `${linear.at.of} has ${linear.columns} columns, and "${node.from}" ${
                width(node.from)
              }`,
            );
          }
          widths.set(to, linear.rows);
          linears.push(linear);
        }
        break;
      case "attend":
        widths.set(node.to, node.attention.heads * node.attention.dim);
        break;
      case "act":
        widths.set(node.to, width(node.from));
        break;
      case "gate":
        widths.set(node.to, width(node.up));
        break;
      case "add":
        widths.set(node.to, width(node.terms[0]!.state));
        break;
    }
  }
  for (const [tensor, parts] of Map.groupBy(linears, ({ at }) => at.of)) {
    needMatrix(tensor, parts, { need, has });
  }
}

/** Ask for a stored matrix, all of whose rows some linear has. */
function needMatrix(
  tensor: string,
  parts: readonly Linear[],
  { need, has }: { need: Need; has: Checkpoint["has"] },
): void {
  const [{ at, bias, columns }] = parts as [Linear];
  const stack = new Set(parts.map(({ at }) => at.index));
  const rows = parts.filter((part) => part.at.index === at.index)
    .reduce((sum, { rows }) => sum + rows, 0);
  const matrix = at.transposed ? [columns, rows] : [rows, columns];
  need(tensor, at.index === undefined ? matrix : [stack.size, ...matrix]);
  if (bias !== undefined) return need(bias, [rows]);
  const unannounced = tensor.replace(/weight$/, "bias");
  if (unannounced === tensor || !has(unannounced)) return;
  throw new UnsupportedError(
    `Cannot run this model: the checkpoint has "${unannounced}", but its config.json describes a ` +
      "model without it, and transformers would leave it out. If the model was trained with " +
      "biases, config.json must say so (attention_bias, mlp_bias, bias).",
    {
      what: unannounced,
      reason: `the checkpoint has "${unannounced}", and config.json does not announce it`,
    },
  );
}

function needNorm({ weight, bias, perHead }: Norm, width: number, need: Need): void {
  if (weight !== undefined) need(weight, [perHead ?? width]);
  if (bias !== undefined) need(bias, [perHead ?? width]);
}

function prefixNorm(norm: Norm, prefix: string): Norm {
  return {
    ...norm,
    ...(norm.weight === undefined ? {} : { weight: prefix + norm.weight }),
    ...(norm.bias === undefined ? {} : { bias: prefix + norm.bias }),
  };
}

function prefixEmbedding({ table, positions, norm, ...rest }: Embedding, root: string): Embedding {
  return {
    ...rest,
    table: root + table,
    ...(positions ? { positions: { ...positions, table: root + positions.table } } : {}),
    ...(norm ? { norm: prefixNorm(norm, root) } : {}),
  };
}

function prefixLinear(linear: Linear, prefix: string): Linear {
  return {
    ...linear,
    at: { ...linear.at, of: prefix + linear.at.of },
    ...(linear.bias === undefined ? {} : { bias: prefix + linear.bias }),
    ...(linear.fused === undefined ? {} : { fused: prefix + linear.fused }),
  };
}

function prefixNode(node: Node, prefix: string): Node {
  switch (node.op) {
    case "norm":
      return { ...node, norm: prefixNorm(node.norm, prefix) };
    case "linears":
      return {
        ...node,
        to: Object.fromEntries(
          Object.entries(node.to).map(([state, linear]) => [state, prefixLinear(linear, prefix)]),
        ),
      };
    default:
      return node;
  }
}
