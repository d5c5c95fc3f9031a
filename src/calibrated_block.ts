/**
 * One block quantized with calibration, step after step: observe the inputs of the linears that come next, move their targets and scales, choose
 * codes, go on with the quantized weights. What is packed is packed at the end of the block, because a later step may still divide the rows of a
 * weight that makes its input.
 */
import { inputObserver, observersOf, scalingOf, type StepScaling } from "./assign.ts";
import type { Backend, Scope, Tensor } from "./backend.ts";
import type { Calibration, StreamWeights } from "./calibrate.ts";
import { CalibrationMeasure } from "./calibration_measure.ts";
import { scaleColumns, upload } from "./channels.ts";
import { CheckpointError } from "./errors.ts";
import type { Block, Linear, Step } from "./family.ts";
import type { Rounder, RoundingRequest, ScalableWeight } from "./method.ts";
import type { Chain } from "./methods/mod.ts";
import { type Observer, openObservations, type Statistics } from "./observer.ts";
import { type Gram, gram } from "./observers/gram.ts";
import { bytesFrom, floatsFrom, roundTo } from "./number.ts";
import { addBias, scaleRows } from "./ops/mod.ts";
import type { PhaseClock } from "./phases.ts";
import type { Plan, Step as PlannedStep } from "./plan.ts";
import {
  type Difference,
  observeInputs,
  observeResiduals,
  type TargetMover,
} from "./propagation.ts";
import type { CalibrationFacts, Reporter } from "./report.ts";
import type { Quantized, Scheme } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { Rows } from "./source.ts";
import { matrixShape } from "./tensor.ts";
import type { LoadedBlock } from "./weights.ts";

/** A weight whose codes were chosen, on the device, in slices of its rows. */
export interface QuantizedWeight {
  readonly planned: PlannedStep;
  readonly slices: readonly { readonly rows: Rows; readonly quantized: Quantized }[];
  /** What its columns were multiplied by; absent: nothing. */
  readonly scales: Float32Array | undefined;
  /** What its rows were multiplied by later; absent: nothing. */
  rowFactors?: Float32Array;
  readonly facts: CalibrationFacts;
}

/** What quantizing a block takes. */
export interface BlockContext {
  readonly plan: Plan;
  readonly backend: Backend;
  readonly calibration: Calibration;
  /** The block as the checkpoint has it. */
  readonly original: LoadedBlock;
  /** Where what lasts until the block is packed is allocated. */
  readonly scope: Scope;
  readonly report: Reporter;
  readonly phases: PhaseClock;
  /** Measure the error of each weight's output. */
  readonly metrics?: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** A block's quantized weights, and its tensors that took over scales. */
export interface QuantizedBlock {
  readonly weights: readonly QuantizedWeight[];
  /** Norms by name, in the dtype they are stored in, on the device. */
  readonly norms: ReadonlyMap<string, Tensor>;
}

/** Quantize one block, and send every window through it, or if it is the `last` only as far as it must. */
export async function quantizeBlock(
  block: Block,
  { last, ...context }: BlockContext & { readonly last: boolean },
): Promise<QuantizedBlock> {
  const work = new BlockWork(block, context);
  for (const step of block.steps) await work.quantizeStep(step);
  if (!last) await work.finish();
  return { weights: [...work.weights.values()], norms: work.norms };
}

class BlockWork {
  readonly weights = new Map<string, QuantizedWeight>();
  readonly norms = new Map<string, Tensor>();
  readonly #name: string;
  readonly #context: BlockContext;
  readonly #planned: ReadonlyMap<string, PlannedStep>;
  readonly #fates: ReadonlyMap<string, PlannedStep["fate"]>;
  readonly #original: StreamWeights;
  readonly #quantized: StreamWeights;
  /** The step that windows stand at. */
  #at: Step | undefined;
  #inputFactor: Tensor | undefined;

  constructor(block: Block, context: BlockContext) {
    const { plan, original } = context;
    this.#name = block.name;
    this.#context = context;
    const steps = plan.blocks.find(({ name }) => name === block.name)?.steps ?? [];
    this.#planned = new Map(steps.map((step) => [step.source.name, step]));
    this.#fates = new Map(steps.map(({ source, fate }) => [source.name, fate]));
    this.#original = {
      linear: (linear, x, scope) => original.linear(linear, x, scope),
      weight: (name) => original.weight(name),
    };
    this.#quantized = plan.recipe.calibrateOn === "float" ? this.#original : {
      linear: (linear, x, scope) => this.#product(linear, x, scope),
      weight: (name) => this.norms.get(name) ?? original.weight(name),
    };
  }

  /** A linear of the quantized stream: from its codes, or as it was. */
  #product(linear: Linear, x: Tensor, scope: Scope): Tensor {
    const weight = this.weights.get(linear.weight);
    const { backend, original } = this.#context;
    if (!weight) return original.linear(linear, x, scope);
    const [rows] = matrixShape(weight.planned.source.shape);
    const y = scope.alloc("f32", [x.shape[0]!, rows]);
    for (const { rows: { from }, quantized } of weight.slices) {
      using scratch = backend.scope();
      schemeKind(quantized.scheme).linear(quantized, x, y, { scope: scratch, column: from });
    }
    if (linear.bias) backend.run(addBias, { b: this.#quantized.weight(linear.bias), y });
    return y;
  }

  /** Observe a step's input, then quantize its linears. */
  async quantizeStep(step: Step): Promise<void> {
    const { backend, phases } = this.#context;
    using scope = backend.scope();
    const groups = this.#groupsOf(step);
    const scaling = scalingOf(step, this.#fates);
    const before = groups.flatMap(({ observers }) => observers);
    const fixing = groups.flatMap(({ inputObserver }) => inputObserver ?? []);
    const { statistics, mover } = await this.#observe(
      step,
      new Set(scaling ? before : [...before, ...fixing]),
      scope,
    );
    const strength = scaling && await this.#scale({ scaling, groups, statistics, mover });
    // A fixed scale is for the input as its linears get it.
    const inputs = scaling && fixing.length > 0
      ? await this.#look(step, new Set(fixing), scope)
      : statistics;
    for (const group of groups) {
      // A rounder may hold a matrix as large as the Gram matrix: there is one at a time.
      using opened = backend.scope();
      const rounder = await phases.time(
        "solve",
        () => group.open(strength?.scales, opened, statistics),
      );
      const inputScale = group.inputScale(inputs);
      for (const planned of group.weights) {
        await this.#round(planned, {
          group,
          rounder,
          mover,
          scaling: strength,
          statistics,
          inputScale,
        });
      }
    }
  }

  /** The last step's linears, after which windows stand at the next block. */
  async finish(): Promise<void> {
    await this.#pass(undefined);
  }

  async #pass(
    to: Step | undefined,
    observe?: NonNullable<Parameters<Calibration["pass"]>[0]["observe"]>,
  ): Promise<void> {
    using _ = this.#context.phases.begin("walk");
    const { plan, calibration, signal } = this.#context;
    await calibration.pass({
      block: this.#name,
      ...(this.#at ? { through: this.#at } : {}),
      quantized: this.#quantized,
      original: this.#original,
      // The original has no scales to make up for.
      inputFactor: plan.recipe.calibrateOn === "float" ? undefined : this.#inputFactor,
      ...(to ? { to } : {}),
      ...(observe ? { observe } : {}),
      signal,
    });
    this.#at = to;
    this.#inputFactor = undefined;
  }

  /** Bring every window to a step; what its input is like there, and how targets are to be moved for it. */
  async #observe(
    step: Step,
    observers: ReadonlySet<Observer>,
    scope: Scope,
  ): Promise<{ statistics: Statistics; mover: TargetMover | undefined }> {
    const { plan, calibration: { tokens }, phases } = this.#context;
    const { channels } = step;
    const observations = openObservations([...observers], { channels, tokens, scope });
    const moved = plan.propagate && observers.has(gram);
    const difference = moved ? this.#difference(step, scope) : undefined;
    await this.#pass(step, async (x, gap) => {
      await observations.add(x);
      if (difference && gap) difference.add(x, gap);
    });
    const statistics = await observations.finish();
    if (observers.has(gram)) checkFinite(statistics.of(gram), step);
    const mover = await phases.time(
      "solve",
      () => difference?.finish(statistics.of(gram), scope),
    );
    return { statistics, mover };
  }

  /** What a step's input is like after scales were moved. */
  async #look(
    step: Step,
    observers: ReadonlySet<Observer>,
    scope: Scope,
  ): Promise<Statistics> {
    const { calibration, original, signal } = this.#context;
    const { tokens } = calibration;
    const { channels } = step;
    const observations = openObservations([...observers], { channels, tokens, scope });
    await calibration.look(step, {
      weight: (name) => this.norms.get(name) ?? original.weight(name),
      inputFactor: this.#inputFactor,
      observe: (x) => observations.add(x),
      signal,
    });
    return await observations.finish();
  }

  #difference({ joins, channels, linears }: Step, scope: Scope): Difference {
    if (!joins) return observeInputs(channels, scope);
    const [rows] = matrixShape(this.#planned.get(linears[0]!.weight)!.source.shape);
    return observeResiduals({ channels, rows }, scope);
  }

  /** The step's linears that are to be quantized, those together that are rounded alike. */
  #groupsOf({ linears }: Step): Group[] {
    const quantized = linears.flatMap(({ weight }) => {
      const planned = this.#planned.get(weight);
      return planned?.fate.kind === "quantize" ? [planned] : [];
    });
    const alike = Map.groupBy(
      quantized,
      ({ fate }) =>
        fate.kind === "quantize"
          ? JSON.stringify([fate.scheme, fate.chain.name, fate.rule.options])
          : "",
    );
    return [...alike.values()].map((weights) => new Group(weights, this.#context.report));
  }

  /** Find the scales that are moved to what makes a step's input, and move them. */
  async #scale(
    { scaling, groups, statistics, mover }: {
      scaling: StepScaling;
      groups: readonly Group[];
      statistics: Statistics;
      mover: TargetMover | undefined;
    },
  ): Promise<{ scales: Float32Array; strength: number } | undefined> {
    using _ = this.#context.phases.begin("scales");
    const { backend, report } = this.#context;
    const weights = groups.flatMap((group) => {
      const open: ScalableWeight["open"] = (scales, scope) => group.open(scales, scope, statistics);
      return group.weights.map((planned): ScalableWeight => ({
        name: planned.source.name,
        rows: matrixShape(planned.source.shape)[0],
        scheme: group.scheme,
        take: (ids, scope) => this.#target(planned.source.name, ids, { mover, scope }),
        open,
      }));
    });
    for (const method of scaling.methods) {
      const found = await method.scale({
        weights,
        options: groups[0]!.options,
        statistics,
        backend,
        shared: scaling.source.kind === "linear" ? scaling.source.rows : undefined,
        report,
      });
      if (found) {
        const scales = await this.#move(scaling, found.scales);
        return { scales, strength: found.strength };
      }
    }
    return undefined;
  }

  /** Divide what makes a step's input by scales; those that were in fact moved. */
  async #move(
    { source }: StepScaling,
    scales: Float32Array<ArrayBuffer>,
  ): Promise<Float32Array> {
    const { backend, scope, original } = this.#context;
    if (source.kind === "norm") {
      const { tensor, moved } = await divideNorm(original.weight(source.weight), scales, scope);
      this.norms.set(source.weight, tensor);
      return moved;
    }
    using scratch = backend.scope();
    const weight = this.weights.get(source.linear.weight)!;
    const factors = weight.rowFactors = new Float32Array(
      matrixShape(weight.planned.source.shape)[0],
    ).fill(1);
    source.rows.forEach((row, channel) => factors[row] = 1 / scales[channel]!);
    for (const { rows: { from, to }, quantized } of weight.slices) {
      const factor = upload(factors.subarray(from, to), scratch);
      const { scale } = quantized.tensors;
      const single = scale?.shape[1] === 1 ? scale : undefined;
      const before = single && floatsFrom("f32", (await backend.read(single))[0]!);
      schemeKind(quantized.scheme).choice!.scaleRows(quantized, factor, scope);
      if (!single || !before) continue;
      // Scales are rounded to their dtype. Where a row has but one, what the row was in fact multiplied by is known, and moving it is exact.
      const after = floatsFrom("f32", (await backend.read(single))[0]!);
      factors.set(after.map((value, i) => value / before[i]!), from);
    }
    this.#inputFactor = upload(Float32Array.from(source.rows, (row) => factors[row]!), scope);
    return Float32Array.from(source.rows, (row) => 1 / factors[row]!);
  }

  /** Rows of a weight as they are to be rounded, scales apart: f32[n, C] in `scope`. */
  #target(
    name: string,
    ids: Uint32Array<ArrayBuffer>,
    { mover, scope }: { mover: TargetMover | undefined; scope: Scope },
  ): Tensor {
    const weight = this.#context.original.rows(name, ids, scope);
    mover?.move(weight, ids);
    return weight;
  }

  /** Choose the codes of one weight. */
  async #round(
    planned: PlannedStep,
    { group, rounder, mover, scaling, statistics, inputScale }: {
      group: Group;
      rounder: Rounder;
      mover: TargetMover | undefined;
      scaling: { scales: Float32Array; strength: number } | undefined;
      statistics: Statistics;
      inputScale: number | undefined;
    },
  ): Promise<void> {
    using _ = this.#context.phases.begin("round");
    const { backend, original, scope, signal, phases, metrics } = this.#context;
    const { source: { name, shape }, sliceRows } = planned;
    const [rows] = matrixShape(shape);
    using scratch = backend.scope();
    const { importance } = rounder.remarks;
    const measure = metrics && new CalibrationMeasure({ scope: scratch, statistics, importance });
    const factor = scaling && upload(scaling.scales, scratch);
    const fixed = inputScale === undefined ? {} : { input_scale: scalar(inputScale, scope) };
    const slices = [];
    const losses: Tensor[] = [];
    for (let from = 0; from < rows; from += sliceRows) {
      signal?.throwIfAborted();
      const to = Math.min(rows, from + sliceRows);
      using inner = backend.scope();
      const ids = Uint32Array.from({ length: to - from }, (_, i) => from + i);
      let weight = this.#target(name, ids, { mover, scope: inner });
      if (factor) weight = scaleColumns(weight, factor, inner);
      const { quantized, loss } = await rounder.round({ weight, scope });
      const tensors = { ...quantized.tensors, ...fixed };
      const slice = { rows: { from, to }, quantized: { ...quantized, tensors } };
      slices.push(slice);
      if (loss) losses.push(scratch.adopt(scope.release(loss)));
      if (!measure) continue;
      const moved = { scales: scaling?.scales };
      await phases.time("measure", () =>
        measure.add(quantized, {
          original: (scope) => original.rows(name, ids, scope),
          values: (scope) => unscaled(moved, { ...slice, scope }),
          scope: inner,
        }));
    }
    const { damping, fallback } = rounder.remarks;
    const sums = await backend.read(...losses, ...measure ? measure.tensors : []);
    const measured = measure && measure.finish(sums.splice(losses.length));
    const loss = sums.reduce(
      (all, bytes) => new Float32Array(bytes.buffer).reduce((sum, value) => sum + value, all),
      0,
    );
    this.weights.set(name, {
      planned,
      slices,
      scales: scaling?.scales,
      facts: {
        method: group.chain.name,
        tokens: statistics.tokens,
        ...(damping === undefined ? {} : { damping }),
        ...(fallback === undefined ? {} : { fallback }),
        ...(scaling ? { strength: scaling.strength } : {}),
        ...(inputScale === undefined ? {} : { inputScale }),
        ...(losses.length > 0 ? { loss: loss / statistics.tokens } : {}),
        ...measured,
      },
    });
  }
}

/** The values of a slice of a weight without the scales that were moved into it: f32[n, C] in `scope`. */
export function unscaled(
  { scales, rowFactors }: {
    readonly scales?: ArrayLike<number> | undefined;
    readonly rowFactors?: ArrayLike<number> | undefined;
  },
  { rows: { from, to }, quantized, scope }: {
    readonly rows: Rows;
    readonly quantized: Quantized;
    readonly scope: Scope;
  },
): Tensor {
  const { backend } = scope;
  let values = schemeKind(quantized.scheme).dequantize(quantized, scope);
  if (scales) {
    values = scaleColumns(values, Float32Array.from(scales, (scale) => 1 / scale), scope);
  }
  if (rowFactors) {
    const own = Array.from(rowFactors).slice(from, to);
    const factor = upload(Float32Array.from(own, (factor) => 1 / factor), scope);
    backend.run(scaleRows, { factor, y: values }, { scale_dtype: 0 });
  }
  return values;
}

/** @throws {CheckpointError} the input of a step is not finite, which no weight of the step can help. */
function checkFinite({ diagonal }: Gram, { linears }: Step): void {
  const channel = diagonal.findIndex((square) => !Number.isFinite(square));
  if (channel < 0) return;
  const { weight } = linears[0]!;
  throw new CheckpointError(
    `Cannot calibrate "${weight}": channel ${channel} of its input is NaN or infinite on the ` +
      "calibration text. Look for such values in the tensors before it.",
    { tensor: weight },
  );
}

/** Linears of one step that are rounded alike. */
class Group {
  readonly weights: readonly PlannedStep[];
  readonly scheme: Scheme;
  readonly chain: Chain;
  readonly options: RoundingRequest["options"];
  readonly #report: Reporter;

  constructor(weights: readonly PlannedStep[], report: Reporter) {
    const { fate } = weights[0]!;
    if (fate.kind !== "quantize") throw new TypeError("A group holds weights to be quantized");
    this.weights = weights;
    this.scheme = fate.scheme;
    this.chain = fate.chain;
    this.options = fate.rule.options;
    this.#report = report;
  }

  get observers(): readonly Observer[] {
    return observersOf(this);
  }

  get inputObserver(): Observer | undefined {
    return inputObserver(this.scheme, this.options);
  }

  /**
   * The fixed scale of the input; undefined where there is none.
   *
   * @throws {CheckpointError} the input is not finite.
   */
  inputScale(inputs: Statistics): number | undefined {
    if (!this.inputObserver) return undefined;
    const found = schemeKind(this.scheme).inputScale!.find(this.scheme, inputs, this.options);
    if (Number.isFinite(found)) return found;
    const { name } = this.weights[0]!.source;
    throw new CheckpointError(
      `Cannot fix a scale for the input of "${name}": on the calibration text it holds NaN or infinity.`,
      { tensor: name },
    );
  }

  /** Open the rounding of these weights, multiplied by scales. */
  open(
    scales: Float32Array | undefined,
    scope: Scope,
    statistics: Statistics,
  ): Promise<Rounder> | Rounder {
    return this.chain.rounding.open({
      names: this.weights.map(({ source }) => source.name),
      scheme: this.scheme,
      options: this.options,
      statistics,
      scales,
      scope,
      report: this.#report,
    });
  }
}

/**
 * A norm's weight divided by scales, in its own dtype and in `scope`. A scale that was in fact moved is what the rounded weight makes of it, so
 * that moving it is exact; where rounding leaves nothing, the weight stays as it was.
 */
async function divideNorm(
  norm: Tensor,
  scales: Float32Array,
  scope: Scope,
): Promise<{ tensor: Tensor; moved: Float32Array<ArrayBuffer> }> {
  const dtype = norm.dtype as "f32" | "bf16" | "f16";
  const [bytes] = await scope.backend.read(norm);
  const before = floatsFrom(dtype, bytes!);
  const moved = new Float32Array(before.length).fill(1);
  const after = before.map((value, c) => {
    const divided = roundTo(dtype, value / scales[c]!);
    const scale = Math.fround(value / divided);
    if (!(scale > 0 && scale < Infinity)) return value;
    moved[c] = scale;
    return divided;
  });
  const tensor = scope.alloc(dtype, norm.shape);
  scope.backend.write(tensor, bytesFrom(dtype, after));
  return { tensor, moved };
}

/** f32[1, 1] */
function scalar(value: number, scope: Scope): Tensor {
  const tensor = scope.alloc("f32", [1, 1]);
  scope.backend.write(tensor, new Uint8Array(Float32Array.of(value).buffer));
  return tensor;
}
