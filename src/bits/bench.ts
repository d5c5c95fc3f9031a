/**
 * What measuring sensitivities takes: windows, a model's blocks as they are, hidden states on the
 * device, and weights that are rounded to nearest for the moment.
 */
import type { Backend, Scope } from "../backend.ts";
import { CheckpointError, UnsupportedError } from "../errors.ts";
import type { QuantizedSlice } from "../calibration/quantized_weight.ts";
import type { Model } from "../family.ts";
import { embedWindows } from "../forward/embedding.ts";
import { HiddenStates } from "../forward/hidden_states.ts";
import { LoadedBlock } from "../forward/loaded_block.ts";
import { type EvaluationInput, tensorsRead } from "../forward/streams.ts";
import { ModelTables } from "../forward/tables.ts";
import { type BlockTensors, walkBlock } from "../forward/walk.ts";
import { type ModelWeights, originalWeights, type Product } from "../forward/weights.ts";
import { type BlockGraph, graphsOf } from "../graph/block_graph.ts";
import { rtn } from "../methods/rtn.ts";
import { refuseNaN } from "../number.ts";
import type { DeviceDType } from "../op.ts";
import { Pace } from "../pace.ts";
import { requestOf } from "../plan/planned.ts";
import { keepStacks, stackWindows } from "../plan/stacks.ts";
import type { Place, QuantizeTask } from "../plan/tasks.ts";
import { type Reporter, StepCounter } from "../report.ts";
import { schemeKind } from "../schemes/mod.ts";
import { size, sizeToGive } from "../size.ts";
import type { Rows, TensorSource } from "../source.ts";
import { byteLength, matrixShape } from "../tensor.ts";

/** What is quantized alone: weights of one block, or the head. */
export interface Candidate {
  /** Its number; that after the last block's for the head. */
  readonly block: number;
  readonly tasks: readonly QuantizeTask[];
  /** Whether GPTQ will choose its codes, so that errors make up for each other. */
  readonly compensated?: boolean;
  /** Whether blocks behind it will be quantized for what its errors make of their inputs. */
  readonly propagated?: boolean;
}

/** What measuring takes. */
export interface BenchOptions {
  readonly model: Model;
  readonly backend: Backend;
  /** Windows to measure on. All hidden states stay on the device: there is no spill. */
  readonly input: EvaluationInput;
  readonly report?: Reporter;
  readonly signal?: AbortSignal | undefined;
}

/** What measuring takes of the device. */
export interface DeviceNeeds {
  /** Candidates that are measured at once. */
  readonly together: number;
  /** Bytes on the device, at most. */
  readonly bytes: number;
}

/** See the head of this file. */
export class Bench implements AsyncDisposable {
  readonly model: Model;
  readonly backend: Backend;
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
  /** The windows below each other, as they walk. */
  readonly stacks: readonly Uint32Array<ArrayBuffer>[];
  readonly weights: ModelWeights;
  readonly graphs: readonly BlockGraph[];
  readonly tables: ModelTables;
  readonly counter: StepCounter;
  readonly pace: Pace;
  readonly signal: AbortSignal | undefined;
  readonly #input: EvaluationInput;
  readonly #report: Reporter;
  readonly #held: Scope;
  readonly #open = new AsyncDisposableStack();

  constructor(
    source: TensorSource,
    { model, backend, input, report = () => {}, signal }: BenchOptions,
  ) {
    this.model = model;
    this.backend = backend;
    this.windows = input.windows;
    this.stacks = stackWindows(input, { model, device: backend });
    this.weights = originalWeights(source);
    this.graphs = graphsOf(model);
    this.counter = new StepCounter(report);
    this.pace = new Pace(backend);
    this.signal = signal;
    this.#input = input;
    this.#report = report;
    this.#held = backend.scope();
    this.tables = new ModelTables(model, { tokens: this.tokens, scope: this.#held });
    this.schedule("embedding", ...this.graphs.keys());
  }

  /** Tokens of a window. */
  get tokens(): number {
    return this.windows[0]!.length;
  }

  /** Say what will be read next, for a source that fetches ahead. */
  schedule(...places: (Place | undefined)[]): void {
    const names = places.flatMap((place) => tensorsRead(this.model, place));
    this.weights.source.schedule?.(names.map((name) => ({ name })));
  }

  /** A new stream, without states. */
  async stream(): Promise<HiddenStates> {
    const { model, backend } = this;
    const { hiddenSize: channels } = model;
    const walk = requestOf({ ...this.#input, seqLen: this.tokens });
    const { rows } = keepStacks(walk, channels, { model, device: backend });
    return await HiddenStates.open({ backend, rows, channels, resident: rows.length });
  }

  /** A new stream that is there as long as this is. */
  async keptStream(): Promise<HiddenStates> {
    return this.#open.use(await this.stream());
  }

  /** A stream of the original at the first block's input; it is there as long as this is. */
  async embedded(): Promise<HiddenStates> {
    const { model, backend, stacks, weights, tables } = this;
    const states = await this.keptStream();
    await embedWindows(model, { backend, stacks, streams: [{ states, weights }], tables });
    return states;
  }

  /** A block of the original; it belongs to `scope`. */
  async load(block: number, scope: Scope): Promise<LoadedBlock> {
    return await LoadedBlock.load(this.graphs[block]!, this.weights, { scope });
  }

  /** Send a stream through a block, into another or itself. */
  async walk(
    block: number,
    tensors: BlockTensors,
    { from, to }: { readonly from: HiddenStates; readonly to: HiddenStates },
  ): Promise<void> {
    const graph = this.graphs[block]!;
    for (const stack of this.stacks.keys()) {
      this.signal?.throwIfAborted();
      using scope = this.backend.scope();
      const x = await from.get(stack, scope);
      const y = walkBlock(graph, x, { scope, tensors, tables: this.tables });
      await to.set(stack, y, scope);
      await this.passed(stack, graph.block.name);
    }
  }

  /** A stack has gone through something. */
  async passed(stack: number, what: string): Promise<void> {
    await this.pace.keep();
    this.counter.count(what, this.stacks[stack]!.length / this.tokens);
  }

  /** Round rows of a weight to nearest, slice by slice, with its rule's options. */
  async round(task: QuantizeTask, scope: Scope, part?: Rows): Promise<QuantizedSlice[]> {
    const { name, scheme, at, weight: { dtype, shape }, sliceRows, rule: { options } } = task;
    const [height, columns] = matrixShape(shape);
    const { from: first, to: end } = part ?? { from: 0, to: height };
    const slices: QuantizedSlice[] = [];
    for (let from = first; from < end; from += sliceRows) {
      const rows = { from, to: Math.min(end, from + sliceRows) };
      const bytes = await this.weights.readMatrix(at, rows);
      refuseNaN({ name, dtype }, bytes, "quantize");
      using scratch = this.backend.scope();
      const weight = scratch.alloc(dtype as DeviceDType, [rows.to - from, columns]);
      this.backend.write(weight, bytes);
      const report = this.#report;
      const job = { names: [name], scheme, options, scope: scratch, report };
      const rounder = await rtn.open(job);
      const { quantized } = await rounder.round({ weight, scope });
      slices.push({ rows, quantized });
    }
    return slices;
  }

  /** Rows of the head, rounded to nearest; their codes belong to `scope`. */
  async roundedHead(task: QuantizeTask, rows: Rows, scope: Scope): Promise<Product> {
    const slices = await this.round(task, scope, rows);
    return (x, y, column) => {
      for (const { rows: { from }, quantized } of slices) {
        using scratch = this.backend.scope();
        const at = { scope: scratch, column: column + from - rows.from };
        schemeKind(quantized.scheme).linear(quantized, x, y, at);
      }
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.tables[Symbol.dispose]();
    this.#held[Symbol.dispose]();
    await this.#open[Symbol.asyncDispose]();
  }
}

/**
 * Bytes of one stream's hidden states, and of how many there is room for.
 *
 * @throws {UnsupportedError} of fewer than are needed.
 */
export function roomForStreams(
  needed: number,
  { model, input }: Pick<BenchOptions, "model" | "input">,
): { readonly stream: number; readonly room: number } {
  const { windows, stateBudget } = input;
  const stream = windows.length * windows[0]!.length * model.hiddenSize * 4;
  const room = Math.floor(stateBudget / stream);
  if (room >= needed) return { stream, room };
  const reason =
    `the hidden states of ${windows.length} windows take ${size(needed * stream)}, and ` +
    `${size(stateBudget)} may be kept`;
  throw new UnsupportedError(
    `Cannot measure sensitivities: ${reason}. Give \`maxStates\` ${
      sizeToGive(needed * stream)
    }, or fewer windows (\`sensitivitySamples\`).`,
    { what: "maxStates", reason },
  );
}

/** Bytes of a quantized group on the device while windows go through it. */
export function candidateBytes({ tasks }: Candidate, tokens: number): number {
  let [codes, most] = [0, 0];
  for (const { scheme, weight, sliceRows } of tasks) {
    const kind = schemeKind(scheme);
    const [rows, columns] = matrixShape(weight.shape);
    codes += kind.codeBytes(scheme, rows, columns);
    const slice = byteLength(weight) * sliceRows / rows +
      kind.workBytes(scheme, sliceRows, columns);
    most = Math.max(most, slice, kind.linearBytes(scheme, weight.shape, tokens));
  }
  return codes + most;
}

/**
 * A loss, never below 0.
 *
 * @throws {CheckpointError} it is no number.
 */
export function finite(value: number, { tasks: [task] }: Candidate): number {
  if (Number.isFinite(value)) return Math.max(0, value);
  throw new CheckpointError(
    `Cannot measure the sensitivity of "${task!.name}": what the model predicts is not finite.`,
    { tensor: task!.name },
  );
}
