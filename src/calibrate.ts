/**
 * Calibration: the windows of a text walk the blocks, and stop at every step before its linears, so that these can be quantized for the inputs
 * that the quantized model before them gives. With error propagation the original model's hidden states walk along. No product of a token with a
 * weight is computed twice.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import { scaleColumns } from "./channels.ts";
import { advance, type Forward, type Position, type Step, type StepContext } from "./family.ts";
import type { Model } from "./family.ts";
import { HiddenStates, type SpillStore } from "./hidden_states.ts";
import { Pace } from "./pace.ts";
import type { TextFacts } from "./record.ts";
import type { StepCounter } from "./report.ts";
import { embedWindows, rotaryTables } from "./windows.ts";
import type { ModelWeights } from "./weights.ts";

/** Tokens to calibrate on, and where hidden states may go. */
export interface CalibrationInput extends Partial<TextFacts> {
  /** Token ids, one array per window, all of one length. */
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
  /** Bytes of hidden states kept on the device. */
  readonly stateBudget: number;
  /** Where the rest goes, in bf16; required when the budget is smaller than the states. */
  readonly spill?: SpillStore;
}

/** A model whose linears and norms are those of one stream of hidden states. */
export type StreamWeights = Pick<Forward, "linear" | "weight">;

/** What the original model's hidden states are where the quantized model's input is being observed. */
export interface Gap {
  readonly original: Tensor;
  readonly quantized: Tensor;
}

/** One way of all windows from a step to the next. */
export interface Pass {
  /** The block's name, for progress. */
  readonly block: string;
  /** The step they go through first, in the quantized stream. */
  readonly through?: Step;
  readonly quantized: StreamWeights;
  /** Required when the original's hidden states walk along. */
  readonly original?: StreamWeights;
  /** f32[C]: what the stored input of `through` is multiplied by, because scales were moved to what made it. */
  readonly inputFactor?: Tensor | undefined;
  /** The step they stop at; none at the end of a block. */
  readonly to?: Step;
  /** Called with every window's input of `to`'s linears, f32[T, C]. */
  readonly observe?: (x: Tensor, gap: Gap | undefined) => void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

/** What {@linkcode Calibration.look} looks at. */
export interface Look extends Pick<StreamWeights, "weight"> {
  /** f32[C]: what the stored input is multiplied by, because scales were moved to what made it. */
  readonly inputFactor: Tensor | undefined;
  /** Called with every window's input, f32[T, C]. */
  readonly observe: (x: Tensor) => void | Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

/** How many states a window takes, for {@linkcode Calibration.open} and the memory plan: floats per token. */
export function statesPerToken(
  { hiddenSize, blocks }: Pick<Model, "hiddenSize" | "blocks">,
  { propagate }: { readonly propagate: boolean },
): number {
  const stored = blocks.flatMap(({ steps }) => steps).filter(({ stored }) => stored);
  const widest = stored.reduce((most, { channels }) => Math.max(most, channels), 0);
  return (propagate ? 2 : 1) * hiddenSize + widest;
}

/** The windows of a calibration on their way through a model. */
export class Calibration implements AsyncDisposable {
  readonly #model: Model;
  readonly #backend: Backend;
  readonly #input: CalibrationInput;
  readonly #propagate: boolean;
  readonly #counter: StepCounter;
  readonly #tables: Pick<StepContext, "cos" | "sin">;
  readonly #held: Scope;
  readonly #pace: Pace;
  readonly #quantized: HiddenStates;
  readonly #original: HiddenStates | undefined;
  /** Inputs of the step that windows stand at, where they cannot be had from the residual stream. */
  #hidden: HiddenStates | undefined;
  /** Steps of the block that the original's residual stream has not been sent through yet. */
  #pending: Step[] = [];

  private constructor(
    model: Model,
    { backend, input, propagate, counter, states }: {
      backend: Backend;
      input: CalibrationInput;
      propagate: boolean;
      counter: StepCounter;
      states: readonly HiddenStates[];
    },
  ) {
    this.#model = model;
    this.#backend = backend;
    this.#input = input;
    this.#propagate = propagate;
    this.#counter = counter;
    this.#held = backend.scope();
    this.#pace = new Pace(backend);
    this.#tables = rotaryTables(model, { tokens: input.windows[0]!.length, scope: this.#held });
    this.#quantized = states[0]!;
    this.#original = states[1];
  }

  /**
   * @param options.propagate Whether the original's hidden states walk along.
   * @param options.counter Counts a step whenever a window has gone one.
   */
  static async open(
    model: Model,
    options: {
      readonly backend: Backend;
      readonly input: CalibrationInput;
      readonly propagate: boolean;
      readonly counter: StepCounter;
    },
  ): Promise<Calibration> {
    const states: HiddenStates[] = [];
    for (let stream = 0; stream < (options.propagate ? 2 : 1); stream++) {
      states.push(await openStates(model.hiddenSize, model, options));
    }
    const passes = model.blocks.reduce((sum, { steps }) => sum + steps.length + 1, 0);
    options.counter.total += options.input.windows.length * passes;
    return new Calibration(model, { ...options, states });
  }

  /** Tokens of all windows. */
  get tokens(): number {
    const { windows } = this.#input;
    return windows.length * windows[0]!.length;
  }

  /** Look up every window's tokens. */
  async embed(weights: ModelWeights): Promise<void> {
    const streams = this.#original ? [this.#quantized, this.#original] : [this.#quantized];
    await embedWindows(this.#model, {
      backend: this.#backend,
      windows: this.#input.windows,
      streams: streams.map((states) => ({ states, weights })),
    });
  }

  /** Send every window from one step to the next. */
  async pass(pass: Pass): Promise<void> {
    const { to, signal } = pass;
    const next = to?.stored
      ? await openStates(to.channels, this.#model, {
        backend: this.#backend,
        input: this.#input,
        propagate: this.#propagate,
      })
      : undefined;
    try {
      for (let window = 0; window < this.#input.windows.length; window++) {
        signal?.throwIfAborted();
        await this.#walk(window, pass, next);
        await this.#pace.keep();
        this.#counter.count(pass.block);
      }
    } catch (error) {
      await next?.[Symbol.asyncDispose]();
      throw error;
    }
    await this.#hidden?.[Symbol.asyncDispose]();
    this.#hidden = next;
    this.#pending = !to ? [] : to.joins ? [] : [...this.#pending, to];
  }

  /**
   * Look once more at the inputs of the step that windows stand at, as scales that were moved since have made them. Nothing is multiplied by a weight,
   * and no window moves.
   */
  async look(
    step: Step,
    { weight, inputFactor, observe, signal }: Look,
  ): Promise<void> {
    for (let window = 0; window < this.#input.windows.length; window++) {
      signal?.throwIfAborted();
      using scope = this.#backend.scope();
      const residual = await this.#quantized.get(window, scope);
      const hidden = await this.#hidden?.get(window, scope);
      const at = {
        residual,
        ...(hidden ? { hidden: scaled(hidden, inputFactor, scope) } : {}),
      };
      await observe(step.input(at, { scope, ...this.#tables, weight }));
      await this.#pace.keep();
    }
  }

  async #walk(window: number, pass: Pass, next: HiddenStates | undefined): Promise<void> {
    using scope = this.#backend.scope();
    const { through, to, observe } = pass;
    let at: Position = { residual: await this.#quantized.get(window, scope) };
    const quantized = this.#forward(pass.quantized, scope);
    if (through) {
      const hidden = await this.#hidden?.get(window, scope);
      at = { ...at, ...(hidden ? { hidden: scaled(hidden, pass.inputFactor, scope) } : {}) };
      at = advance(through, at, quantized);
    }
    if (to) {
      const input = to.input(at, quantized);
      const gap = this.#original && await this.#gap(window, { pass, to, at, input, scope });
      await observe?.(input, gap);
    }
    await this.#quantized.set(window, at.residual, scope);
    if (at.hidden) await next?.set(window, at.hidden, scope);
  }

  /** Bring the original's states as far as they are needed, and put them beside the quantized model's. */
  async #gap(
    window: number,
    { pass, to, at, input, scope }: {
      pass: Pass;
      to: Step;
      at: Position;
      input: Tensor;
      scope: Scope;
    },
  ): Promise<Gap> {
    const states = this.#original!;
    if (!pass.original) throw new RangeError("Cannot walk the original: its weights are missing");
    const original = this.#forward(pass.original, scope);
    let there: Position = { residual: await states.get(window, scope) };
    for (const step of this.#pending) there = advance(step, there, original);
    if (!to.joins) return { original: to.input(there, original), quantized: input };
    const { residual } = advance(to, there, original);
    await states.set(window, residual, scope);
    return { original: residual, quantized: at.residual };
  }

  #forward(weights: StreamWeights, scope: Scope): Forward {
    return { scope, ...this.#tables, weight: weights.weight, linear: weights.linear };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#held[Symbol.dispose]();
    await this.#quantized[Symbol.asyncDispose]();
    await this.#original?.[Symbol.asyncDispose]();
    await this.#hidden?.[Symbol.asyncDispose]();
  }
}

/** A store of states of `width` floats a token, with its share of the budget. */
async function openStates(
  width: number,
  model: Model,
  { backend, input, propagate }: {
    readonly backend: Backend;
    readonly input: CalibrationInput;
    readonly propagate: boolean;
  },
): Promise<HiddenStates> {
  const { windows, stateBudget, spill } = input;
  const tokens = windows[0]!.length;
  // Of as many windows as fit, everything is kept; of the others nothing.
  const perWindow = tokens * statesPerToken(model, { propagate }) * 4;
  const resident = Math.floor(stateBudget / perWindow);
  return await HiddenStates.open({
    backend,
    windows: windows.length,
    shape: [tokens, width],
    budget: resident * tokens * width * 4,
    spill,
    dtype: "bf16",
  });
}

function scaled(hidden: Tensor, factor: Tensor | undefined, scope: Scope): Tensor {
  return factor ? scaleColumns(hidden, factor, scope) : hidden;
}
