/**
 * What is seen of the inputs of a block's stages: windows are brought to each in turn, through the
 * quantized weights of the stages before it or through the original's, and observed there.
 */
import type { Scope, Tensor } from "../backend.ts";
import { CheckpointError, quote } from "../errors.ts";
import type { BlockGraph, Stage } from "../graph/block_graph.ts";
import { residualEdge } from "../graph/residual.ts";
import type { Gram } from "../linalg/panels.ts";
import { type Observer, openObservations, type Statistics } from "../observer.ts";
import { gram } from "../observers/gram.ts";
import type { BlockContext } from "./block_context.ts";
import type { BlockTensors } from "./block_tensors.ts";
import { type OpenGathering, StageGathering } from "./gathering.ts";
import type { Gathers, Pass } from "./pass.ts";
import {
  type Difference,
  observeInputs,
  observeResiduals,
  type TargetMover,
} from "./propagation.ts";

/** What is known of a stage's input. */
export interface ObservedInput {
  readonly statistics: Statistics;
  readonly mover: TargetMover | undefined;
}

/** See the head of this file. */
export class StageInputs {
  /**
   * f32[C]: what the input of the stage that windows stand at is multiplied by, because scales were
   * moved to what made it.
   */
  factor: Tensor | undefined;
  readonly #graph: BlockGraph;
  readonly #context: BlockContext;
  readonly #tensors: BlockTensors;

  constructor(graph: BlockGraph, context: BlockContext, tensors: BlockTensors) {
    this.#graph = graph;
    this.#context = context;
    this.#tensors = tensors;
  }

  async #walkTo(to: Stage, gathers: Gathers<StageGathering>): Promise<StageGathering> {
    using _ = this.#context.trace.begin("walk");
    const gathered = await this.#context.calibration.gather({ ...this.#way(), to }, gathers);
    this.factor = undefined;
    return gathered;
  }

  /** How windows go on from where they stand. */
  #way(): Omit<Pass, "to" | "observe"> {
    const { float, original, signal } = this.#context;
    return {
      graph: this.#graph,
      quantized: float ? original : this.#tensors,
      original,
      // The original has no scales to make up for.
      inputFactor: float ? undefined : this.factor,
      signal,
    };
  }

  /**
   * Bring every window to a stage; what its input is like there, and how targets are to be moved
   * for it.
   */
  async observe(
    stage: Stage,
    observers: ReadonlySet<Observer>,
    scope: Scope,
  ): Promise<ObservedInput> {
    const { propagate, calibration: { length }, trace, signal } = this.#context;
    const { channels } = stage;
    const open: OpenGathering<StageGathering> = (at) => {
      const observations = openObservations([...observers], { channels, ...length, ...at, signal });
      const { scope } = at;
      return propagate && observers.has(gram)
        ? new StageGathering(observations, this.#difference(stage, scope))
        : new StageGathering(observations);
    };
    const { observations, difference } = await this.#walkTo(stage, { open, scope });
    const statistics = await observations.finish();
    if (observers.has(gram)) checkFinite(statistics.of(gram), stage, scope);
    const mover = await trace.time(
      "solve",
      () => difference?.finish(statistics.of(gram), scope),
    );
    if (difference && !mover) this.#warnOfTargets(stage);
    return { statistics, mover };
  }

  /**
   * Send windows on from the last stage, or through all of a block that was trained; then they
   * stand before the next.
   */
  async finish({ trained }: { readonly trained: boolean }): Promise<void> {
    using _ = this.#context.trace.begin("walk");
    const { calibration } = this.#context;
    if (trained) await calibration.passTrained(this.#way());
    else await calibration.pass(this.#way());
    this.factor = undefined;
  }

  #warnOfTargets({ matrices }: Stage): void {
    this.#context.report({
      type: "warning",
      code: "no-propagation",
      message: `Errors are not propagated to ${matrices.map(({ name }) => name).join(", ")}: the ` +
        "Gram matrix of their input cannot be factored, with ten times the damping either.",
    });
  }

  /** What a stage's input is like after scales were moved. */
  async look(stage: Stage, observers: ReadonlySet<Observer>, scope: Scope): Promise<Statistics> {
    const { calibration, signal } = this.#context;
    const { channels } = stage;
    const { length } = calibration;
    const seen = await calibration.look({
      graph: this.#graph,
      tensors: this.#tensors,
      inputFactor: this.factor,
      signal,
    }, {
      open: (at) =>
        new StageGathering(
          openObservations([...observers], { channels, ...length, ...at, signal }),
        ),
      scope,
    });
    return await seen.observations.finish();
  }

  #difference(stage: Stage, scope: Scope): Difference {
    const { channels } = stage;
    const options = { scope, signal: this.#context.signal };
    const edge = residualEdge(this.#graph, stage);
    if (!edge) return observeInputs(channels, options);
    const { linear: { rows, bias }, times } = edge;
    return observeResiduals({
      channels,
      rows,
      times,
      bias: bias === undefined ? undefined : this.#tensors.vector(bias),
    }, options);
  }
}

/**
 * @throws {CheckpointError} the input of a stage is not finite, which no weight of the stage can
 * help.
 */
function checkFinite(
  { diagonal }: Gram,
  { matrices }: Stage,
  { backend }: Scope,
): void {
  const channel = diagonal.findIndex((square) => !Number.isFinite(square));
  if (channel < 0) return;
  const { name } = matrices[0]!;
  throw new CheckpointError(
    `Cannot calibrate ${quote(name)}: channel ${channel} of its input is NaN or infinite on the ` +
      `calibration text. Look for such values in the tensors before it${
        backend.name === "webgpu" ? ", or try `device` wasm" : ""
      }.`,
    { tensor: name },
  );
}
