/**
 * Gradients through a block of every family: in float64 they are what differences of the way
 * forward say, on each backend they are those but for rounding, and they do not depend on what is
 * kept and what is computed anew.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../../src/backend.ts";
import type { Model } from "../../src/family.ts";
import { configureModel } from "../../src/families/mod.ts";
import { BlockTape, type MatrixRows, type TapeTensors } from "../../src/forward/backward.ts";
import { LoadedBlock } from "../../src/forward/loaded_block.ts";
import { ModelTables } from "../../src/forward/tables.ts";
import { walkBlock } from "../../src/forward/walk.ts";
import { originalWeights, storedWeights } from "../../src/forward/weights.ts";
import { type BlockGraph, graphsOf } from "../../src/graph/block_graph.ts";
import type { Matrix } from "../../src/graph/matrices.ts";
import { planTape, type TapePlan } from "../../src/graph/tape.ts";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { copyRectangle } from "../../src/ops/copy.ts";
import { multiply } from "../../src/ops/gemm.ts";
import { addBias, matmulNt } from "../../src/ops/mod.ts";
import { recognize } from "../../src/formats/mod.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { gaussian, uniform } from "../conformance/given.ts";
import { counted } from "../counted.ts";
import { float64Backend, numbersOf } from "../f64_backend.ts";
import { onEveryBackend } from "../present.ts";
import { folder, quantize } from "../run_given.ts";
import { checkpointOf, FAMILIES, MODELS, weightsFolder } from "./given.ts";

/** Two windows, longer than those that some of the models' attention has. */
const SEQ_LEN = 11;
const TOKENS = 2 * SEQ_LEN;

/** A block at hand, with an input and a gradient by its output. */
interface Given {
  readonly graph: BlockGraph;
  readonly model: Model;
  readonly tensors: LoadedBlock;
  readonly tables: ModelTables;
  readonly scope: Scope;
  readonly x: Tensor;
  readonly gradient: Tensor;
}

function upload(values: Float32Array<ArrayBuffer>, shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

/** Do something with each block of a model. */
async function withBlocks(
  name: string,
  backend: Backend,
  act: (given: Given) => Promise<void>,
): Promise<void> {
  await using source = await openCheckpoint(weightsFolder(name));
  const config = JSON.parse(await Deno.readTextFile(new URL(`${name}/config.json`, FAMILIES)));
  const model = configureModel(config, (tensor) => source.tensors.has(tensor));
  for (const graph of graphsOf(model)) {
    using scope = backend.scope();
    using tables = new ModelTables(model, { tokens: SEQ_LEN, scope });
    const tensors = await LoadedBlock.load(graph, originalWeights(source), { scope });
    const shape = [TOKENS, model.hiddenSize];
    const count = TOKENS * model.hiddenSize;
    const [x, gradient] = [1, 2].map((seed) => upload(gaussian(count, seed), shape, scope)) as [
      Tensor,
      Tensor,
    ];
    await act({ graph, model, tensors, tables, scope, x, gradient });
  }
}

const plan = (graph: BlockGraph, how: Partial<Parameters<typeof planTape>[1]> = {}): TapePlan =>
  planTape(graph, {
    tokens: TOKENS,
    seqLen: SEQ_LEN,
    inputGradient: true,
    budget: Infinity,
    ...how,
  });

/** Gradients by the block's input, and by its matrices by their names. */
interface Found {
  readonly input: Tensor | undefined;
  readonly weights: ReadonlyMap<string, Tensor>;
}

function gradientsOf(
  { graph, scope, tables, x, gradient }: Given,
  tensors: TapeTensors,
  how: TapePlan,
): Found {
  const { backend } = scope;
  const weights = new Map<string, Tensor>();
  using tape = new BlockTape(graph, how, { scope, tensors, tables });
  tape.forward(x, scope);
  const input = tape.backward(gradient, {
    scope,
    onLinear({ name, rows, columns }, { x, dy }) {
      const dw = scope.alloc("f32", [rows, columns]);
      multiply(backend, {
        a: { tensor: dy, transposed: true },
        b: { tensor: x, transposed: true },
        c: { tensor: dw },
      }, { m: rows, n: columns, k: TOKENS });
      assert.ok(!weights.has(name));
      weights.set(name, dw);
    },
  });
  return { input, weights };
}

/** A block whose matrices are f32 that may be changed, in two slices on the way back. */
class Changeable implements TapeTensors {
  readonly weights = new Map<string, Tensor>();
  readonly #loaded: LoadedBlock;

  constructor({ graph, tensors, scope }: Given) {
    this.#loaded = tensors;
    for (const matrix of graph.matrices) {
      const { name, rows, columns } = matrix;
      const w = scope.alloc("f32", [rows, columns]);
      for (const { from, values } of tensors.rowsOf(matrix)) {
        const part = values(scope);
        copyRectangle(scope.backend, { from: { tensor: part }, to: { tensor: w, row: from } }, {
          rows: part.shape[0]!,
          columns,
        });
      }
      this.weights.set(name, w);
    }
  }

  vector(name: string): Tensor {
    return this.#loaded.vector(name);
  }

  product({ name, rows, bias }: Matrix, x: Tensor, scope: Scope): Tensor {
    const y = scope.alloc("f32", [x.shape[0]!, rows]);
    scope.backend.run(matmulNt, { x, w: this.weights.get(name)!, y }, { column: 0 });
    if (bias) scope.backend.run(addBias, { b: this.vector(bias), y });
    return y;
  }

  rowsOf({ name, rows, columns }: Matrix): Iterable<MatrixRows> {
    const middle = Math.ceil(rows / 3);
    return [[0, middle], [middle, rows]].map(([from = 0, to = 0]) => ({
      from,
      values: (scope: Scope) => {
        const part = scope.alloc("f32", [to - from, columns]);
        const whole = { tensor: this.weights.get(name)!, row: from };
        copyRectangle(scope.backend, { from: whole, to: { tensor: part } }, {
          rows: to - from,
          columns,
        });
        return part;
      },
    }));
  }
}

/** The step of differences: what f64 leaves of a sum of some numbers near 1 divided by it is 1e-9. */
const STEP = 2 ** -17;

for (const name of MODELS) {
  Deno.test(`gradients through blocks of the ${name} model are what differences say`, async () => {
    const backend = float64Backend();
    await withBlocks(name, backend, (given) => {
      const { graph, tables, x, gradient } = given;
      const tensors = new Changeable(given);
      const found = gradientsOf(given, tensors, plan(graph));
      const loss = () => {
        using inner = backend.scope();
        const y = numbersOf(walkBlock(graph, x, { scope: inner, tensors, tables }));
        return y.reduce((sum, value, i) => sum + value * numbersOf(gradient)[i]!, 0);
      };
      const next = uniform(7);
      const check = (what: string, place: Tensor, by: Tensor, count: number) => {
        const [values, derivatives] = [numbersOf(place), numbersOf(by)];
        const most = derivatives.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
        for (let n = 0; n < count; n++) {
          const i = Math.floor(next() * values.length);
          const before = values[i]!;
          const [more, less] = [1, -1].map((sign) => {
            values[i] = before + sign * STEP;
            return loss();
          }) as [number, number];
          values[i] = before;
          const want = (more - less) / (2 * STEP);
          // The third derivative's part is STEP² of it.
          const off = Math.abs(derivatives[i]! - want);
          assert.ok(
            off <= 1e-7 * (most + 1),
            `${graph.block.name}: by ${what}[${i}] ${derivatives[i]}, differences say ${want}`,
          );
        }
      };
      check("the input", x, found.input!, 8);
      assert.deepEqual(
        [...found.weights.keys()].sort(),
        graph.matrices.map(({ name }) => name).sort(),
      );
      for (const [name, by] of found.weights) check(name, tensors.weights.get(name)!, by, 4);
      return Promise.resolve();
    });
  });
}

/** The gradients by a block's input and weights, as numbers, in float64. */
async function exactGradients(name: string): Promise<Float64Array[][]> {
  const all: Float64Array[][] = [];
  await withBlocks(name, float64Backend(), (given) => {
    const { input, weights } = gradientsOf(given, given.tensors, plan(given.graph));
    all.push([input!, ...weights.values()].map((tensor) => numbersOf(tensor).slice()));
    return Promise.resolve();
  });
  return all;
}

/**
 * How far gradients may be off by rounding, as a part of the largest of a tensor: a product's sum
 * of n terms is off by n roundings at most, and by √n of them if they are of either sign; on the
 * way there and back lie some twelve products, of which each one's error goes through the next.
 */
const ROUNDED = 12 * 192 * 2 ** -24;

for (const name of MODELS) {
  onEveryBackend(
    `gradients through blocks of the ${name} model are right but for rounding, whatever is kept`,
    async (backend) => {
      const exact = await exactGradients(name);
      let block = 0;
      await withBlocks(name, backend, async (given) => {
        const { graph, tensors } = given;
        const { input, weights } = gradientsOf(given, tensors, plan(graph));
        const found = await backend.read(input!, ...weights.values());
        found.forEach((bytes, n) => {
          const want = exact[block]![n]!;
          const most = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          new Float32Array(bytes.buffer).forEach((value, i) => {
            const off = Math.abs(value - want[i]!);
            assert.ok(
              off <= ROUNDED * most,
              `${graph.block.name}: gradient ${n}[${i}] is ${value}, not ${want[i]}`,
            );
          });
        });
        block++;
        const least = gradientsOf(given, tensors, plan(graph, { budget: 0 }));
        assert.deepEqual(await backend.read(least.input!, ...least.weights.values()), found);
        const without = gradientsOf(given, tensors, plan(graph, { inputGradient: false }));
        assert.equal(without.input, undefined);
        assert.deepEqual(await backend.read(...without.weights.values()), found.slice(1));
      });
      assert.equal(block, exact.length);
    },
  );
}

for (const name of MODELS) {
  Deno.test(`a tape through blocks of the ${name} model takes the bytes that its plan says`, async () => {
    await using device = await openWasm({ threads: 1 });
    const { backend, heldBytes, peakBytes, forgetPeak } = counted(device);
    await withBlocks(name, backend, (given) => {
      const { graph, tensors, tables, x, gradient } = given;
      const whole = plan(graph).bytes;
      const least = plan(graph, { budget: 0 }).bytes;
      assert.ok(least <= whole);
      for (const budget of [Infinity, 0.8 * whole, 0.6 * whole, 0]) {
        for (const inputGradient of [true, false]) {
          const how = plan(graph, { budget, inputGradient });
          if (inputGradient && budget >= least) assert.ok(how.bytes <= budget);
          // Tables are made when they are first asked for, and stay.
          {
            using first = backend.scope();
            gradientsOf({ ...given, scope: first }, tensors, how);
          }
          const before = heldBytes();
          {
            using inner = backend.scope();
            using tape = new BlockTape(graph, how, { scope: inner, tensors, tables });
            forgetPeak();
            tape.forward(x, inner)[Symbol.dispose]();
            tape.backward(gradient, { scope: inner, onLinear: () => {} });
          }
          assert.equal(heldBytes(), before);
          const peak = peakBytes() - before;
          assert.ok(peak <= how.bytes + 4096, `${graph.block.name}: ${peak} of ${how.bytes} bytes`);
          assert.ok(
            how.bytes <= 1.02 * peak,
            `${graph.block.name}: ${how.bytes} for ${peak} bytes`,
          );
          if (budget < whole) assert.ok(how.again.size > 0);
        }
      }
      return Promise.resolve();
    });
  });
}

for (const scheme of ["W4A16", "NF4", "FP8"]) {
  Deno.test(`gradients go back through the values of ${scheme} that products use`, async () => {
    await using made = await checkpointOf("llama");
    await using into = await folder();
    await using backend = await openWasm({ threads: 1 });
    const { out } = await quantize(made.path, {
      scheme,
      ...(scheme === "W4A16" ? { method: "rtn", "group-size": 32 } : {}),
    }, { backend, into: into.path });
    await using source = await openCheckpoint(out);
    const found = (await recognize(source))!;
    const weights = storedWeights(source, found);
    const has = (name: string) => source.tensors.has(name) || found.weights.has(name);
    const [graph] = graphsOf(configureModel(source.config, has));
    using scope = backend.scope();
    const tensors = await LoadedBlock.load(graph!, weights, { scope });
    for (const matrix of graph!.matrices) {
      assert.ok(weights.stored(matrix.name), matrix.name);
      const { rows, columns } = matrix;
      const unit = Float32Array.from(
        { length: columns ** 2 },
        (_, i) => Number(i % (columns + 1) === 0),
      );
      const product = tensors.product(matrix, upload(unit, [columns, columns], scope), scope);
      const parts = [...tensors.rowsOf(matrix)].map(({ values }) => values(scope));
      const [turned, ...values] = (await backend.read(product, ...parts)).map((bytes) =>
        new Float32Array(bytes.buffer)
      );
      const want = Array.from(
        { length: rows * columns },
        (_, i) => turned![i % columns * rows + Math.floor(i / columns)]! + 0,
      );
      assert.deepEqual(values.flatMap((part) => Array.from(part, (value) => value + 0)), want);
    }
  });
}
