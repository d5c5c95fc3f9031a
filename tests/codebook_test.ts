/**
 * Levels that are found for the weights at hand: against kmeans1d's,
 * against every partition, against what Lloyd and Max published; and the scheme `codebook` from a
 * weight to a checkpoint that is read back.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { CheckpointError } from "../src/errors.ts";
import { codebookFormat } from "../src/formats/codebook.ts";
import { lloydMax } from "../src/linalg/lloyd_max.ts";
import { rtn } from "../src/methods/rtn.ts";
import { bytesFrom, floatsFrom, roundTo } from "../src/number.ts";
import type { LearnedCodebookScheme } from "../src/scheme.ts";
import { presetScheme, schemeKind } from "../src/schemes/mod.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { verify } from "../src/verify.ts";
import { gaussian } from "./conformance/given.ts";
import golden from "./golden/lloyd_max.json" with { type: "json" };
import { onEveryBackend } from "./present.ts";
import { folder, quantize } from "./run_given.ts";
import { referenceBackend } from "../src/backends/reference.ts";

/** The values of make_lloyd_max.py. */
function squares(seed: number): Float32Array<ArrayBuffer> {
  let state = seed;
  return Float32Array.from({ length: golden.values }, () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    const x = state / 2 ** 32 - 0.5;
    return Math.round(x * Math.abs(x) * 16384) / 16384;
  });
}

function cost(values: Float32Array, levels: Float64Array, weights?: readonly number[]): number {
  return values.reduce((sum, value, i) => {
    const least = Math.min(...Array.from(levels, (level) => (value - level) ** 2));
    return sum + (weights ? weights[i % weights.length]! : 1) * least;
  }, 0);
}

Deno.test("lloydMax() finds the levels that kmeans1d finds, and with weights those of repeated values", () => {
  for (const { seed, count, weights, levels, weighted } of golden.cases) {
    const values = squares(seed);
    const near = (found: Float64Array, want: readonly number[]) =>
      found.forEach((level, i) =>
        assert(Math.abs(level - want[i]!) < 1e-12, `${count}: ${level}, not ${want[i]}`)
      );
    near(lloydMax(values, { count }), levels);
    near(lloydMax(values, { count, weights: Float32Array.from(weights) }), weighted);
    assert.notDeepEqual(levels, weighted);
  }
});

/** The least cost of all partitions of ascending values into `count` cells, tried one and all. */
function leastCost(values: Float32Array, count: number): number {
  const sums = [0];
  const squares = [0];
  for (const value of values) {
    sums.push(sums.at(-1)! + value);
    squares.push(squares.at(-1)! + value ** 2);
  }
  const cell = (from: number, to: number) =>
    squares[to]! - squares[from]! - (sums[to]! - sums[from]!) ** 2 / (to - from);
  let best = values.reduce((costs: number[], _, i) => [...costs, cell(0, i + 1)], [0]);
  for (let k = 2; k <= count; k++) {
    best = best.map((cost, to) => {
      for (let from = 1; from < to; from++) cost = Math.min(cost, best[from]! + cell(from, to));
      return cost;
    });
  }
  return best.at(-1)!;
}

Deno.test("no partition of values into cells costs less than that of lloydMax()", () => {
  for (const seed of [1, 2, 3]) {
    const values = gaussian(500, seed).sort();
    for (const count of [4, 8]) {
      const [found, best] = [cost(values, lloydMax(values, { count })), leastCost(values, count)];
      // What shares a bin stays together.
      assert(Math.abs(found / best - 1) < 1e-4, `seed ${seed}: ${found}, best ${best}`);
    }
  }
});

Deno.test("on normal data lloydMax() has the levels and the distortion that Max published", () => {
  const values = gaussian(2 ** 20, 5);
  // J. Max, "Quantizing for Minimum Distortion", 1960, table I.
  const published = new Map([[4, 0.1175], [8, 0.03454], [16, 0.009497]]);
  for (const [count, distortion] of published) {
    const levels = lloydMax(values, { count });
    const found = cost(values.subarray(0, 2 ** 16), levels) / 2 ** 16;
    assert(Math.abs(found / distortion - 1) < 0.02, `${count}: ${found}, not ${distortion}`);
  }
  const levels = lloydMax(values, { count: 4 });
  [-1.51, -0.4528, 0.4528, 1.51].forEach((level, i) =>
    assert(Math.abs(levels[i]! - level) < 0.01, `${levels[i]}, not ${level}`)
  );
});

Deno.test("lloydMax() leaves no level without a value while there are values to have, and bears any input", () => {
  const values = Float32Array.from([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, -1]);
  assert.equal(cost(values, lloydMax(values, { count: 8 })), 0);
  assert.deepEqual([...lloydMax(new Float32Array(9), { count: 4 })], [0, 0, 0, 0]);
  const twoWeights = { count: 4, weights: new Float32Array(3) };
  assert.deepEqual(lloydMax(values, twoWeights), lloydMax(values, { count: 4 }));
  for (const broken of [NaN, Infinity]) {
    for (const at of [0, 5, 11]) {
      const levels = lloydMax(values.with(at, broken), { count: 4 });
      assert.deepEqual([...levels], [NaN, NaN, NaN, NaN]);
    }
  }
  assert.deepEqual(
    [...lloydMax(Float32Array.of(5, 9, 100), { count: 2, weights: Float32Array.of(1, 1, 0) })],
    [5, 9],
  );
});

onEveryBackend(
  "the scheme codebook has the codes of its definition, a table for some rows",
  async (backend) => {
    const [rows, columns] = [37, 29];
    const importance = Float32Array.from({ length: columns }, (_, i) => 1 + i % 5 * 3);
    for (const dtype of ["bf16", "f32"] as const) {
      for (const tableRows of [0, 1, 8]) {
        for (const weights of [undefined, importance]) {
          using scope = backend.scope();
          const scheme: LearnedCodebookScheme = {
            kind: "codebook",
            bits: 3,
            tableRows,
            tableDType: dtype,
          };
          const bytes = bytesFrom(dtype, gaussian(rows * columns, 9, 0.02));
          const weight = scope.alloc(dtype, [rows, columns]);
          backend.write(weight, bytes);
          const counts = weights && scope.alloc("f32", [columns]);
          if (counts) backend.write(counts, new Uint8Array(importance.buffer));
          const kind = schemeKind(scheme);
          const quantized = await kind.quantize(scheme, weight, {
            scope,
            search: "frobenius",
            ...(counts ? { importance: counts } : {}),
          });
          const [codes, back] = await backend.read(
            quantized.tensors.codes!,
            kind.dequantize(quantized, scope),
          );
          const values = floatsFrom(dtype, bytes);
          const found = new Float32Array(back!.buffer);
          const each = tableRows === 0 ? rows : tableRows;
          for (let r = 0; r < rows; r += each) {
            const part = values.subarray(r * columns, Math.min(rows, r + each) * columns);
            const table = Array.from(
              lloydMax(part, { count: 8, ...(weights ? { weights } : {}) }),
              (level) => roundTo(dtype, Math.fround(level)),
            );
            part.forEach((value, i) => {
              const at = r * columns + i;
              const bounds = table.slice(1).map((level, k) => Math.fround(level + table[k]!) / 2);
              const code = bounds.filter((bound) => value > bound).length;
              assert.equal(codes![at], code);
              assert.equal(found[at], table[code]);
            });
          }
        }
      }
    }
  },
);

Deno.test("levels are found by least squares alone, and other methods say that they do not choose them", () => {
  const { scheme } = presetScheme("CB4", { modelDType: "bf16" });
  assert.equal(rtn.supports(scheme, {}), true);
  assert.equal(rtn.supports(scheme, { scale: "hessian" }), true);
  for (const scale of ["minmax", "mse"]) {
    assert.match(String(rtn.supports(scheme, { scale })), /least squares/);
  }
  const refused = schemeKind(scheme).check({ ...scheme, bits: 5 } as never, [4, 4]);
  assert.match(String(refused), /2 to 4 bits/);
});

Deno.test("a codebook is written by `plain` as values and by `codebook` as codes, verified and read back", async () => {
  await using temp = await folder();
  await using backend = referenceBackend();
  const model = join(temp.path, "model");
  await Deno.mkdir(model);
  const bytes = bytesFrom("bf16", gaussian(24 * 40, 3, 0.05));
  const header = JSON.stringify({
    "a.weight": { dtype: "BF16", shape: [24, 40], data_offsets: [0, bytes.length] },
  });
  const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
  const file = new Uint8Array(8 + padded.length + bytes.length);
  new DataView(file.buffer).setBigUint64(0, BigInt(padded.length), true);
  file.set(new TextEncoder().encode(padded), 8);
  file.set(bytes, 8 + padded.length);
  await Deno.writeFile(join(model, "model.safetensors"), file);
  await Deno.writeTextFile(join(model, "config.json"), "{}");
  const { out, report } = await quantize(model, { scheme: "CB3", "table-rows": 8 }, {
    backend,
    into: temp.path,
  });
  assert.match(report.tensors[0]!.scheme, /codebook of 8 levels, a table for 8 rows/);
  await using source = await openCheckpoint(model);
  const found = await verify(out, { backend, source });
  assert.equal(found.quantized.length, 1);
  const asCodes = await quantize(model, {
    scheme: "CB3",
    "table-rows": 8,
    format: "codebook",
  }, { backend, into: temp.path });
  // 4 words of 32 bits hold 40 codes of 3 bits; 3 tables of 8 levels; two sizes.
  const stored = 24 * 4 * 4 + 3 * 8 * 2 + 2 * 8;
  assert.equal(asCodes.report.tensors[0]!.bitsPerWeight, stored * 8 / (24 * 40));
  const same = await verify(asCodes.out, { backend, source });
  assert.equal(same.format, "codebook");
  assert.deepEqual(same.quantized[0]!.metrics, found.quantized[0]!.metrics);
  assert.deepEqual(same.loaders.map(({ opens }) => opens), ["no"]);
  {
    await using coded = await openCheckpoint(asCodes.out);
    const table = Buffer.from(await coded.read("a.weight_table"));
    const path = join(asCodes.out, "model.safetensors");
    const stored = Buffer.from(await Deno.readFile(path));
    table.copy(stored, stored.indexOf(table), 2, 4);
    table.copy(stored, stored.indexOf(table.subarray(4)) - 2, 0, 2);
    await Deno.writeFile(path, stored);
  }
  await assert.rejects(verify(asCodes.out, { backend }), /levels of its codebook do not ascend/);
  await using written = await openCheckpoint(out);
  const values = floatsFrom("bf16", await written.read("a.weight"));
  for (let r = 0; r < 24; r += 8) {
    assert.equal(new Set(values.subarray(r * 40, (r + 8) * 40)).size, 8);
  }
});

Deno.test("a checkpoint of codes and tables whose parts do not fit is refused, and the part is named", async () => {
  const parts = (): Map<string, TensorInfo> =>
    new Map([
      { name: "a.weight_codes", dtype: "i32", shape: [24, 4] } as const,
      { name: "a.weight_table", dtype: "bf16", shape: [3, 8] } as const,
      { name: "a.weight_shape", dtype: "i64", shape: [2] } as const,
    ].map((part) => [part.name, part]));
  const read = () => Promise.resolve(new Uint8Array(BigInt64Array.of(24n, 40n).buffer));
  const recognized = (tensors: Map<string, TensorInfo>, table_rows: unknown = 8) => {
    const config = { quantization_config: { quant_method: "codebook", table_rows } };
    return codebookFormat.recognize({ tensors, config, read });
  };
  const { scheme, shape } = (await recognized(parts()))!.get("a.weight")!;
  assert.deepEqual(scheme, { kind: "codebook", bits: 3, tableRows: 8, tableDType: "bf16" });
  assert.deepEqual(shape, [24, 40]);
  assert.equal(await codebookFormat.recognize({ tensors: parts(), config: {}, read }), undefined);
  const part = (name: string, dtype: "i32" | "bf16", shape: number[]) =>
    parts().set(name, { name, dtype, shape });
  const without = parts();
  without.delete("a.weight_shape");
  const cases: [Map<string, TensorInfo>, unknown, RegExp][] = [
    [parts(), 5, /"a\.weight_table" must be bf16\[5,8\], it is bf16\[3,8\]/],
    [parts(), -1, /table_rows is -1/],
    [parts(), "8", /table_rows is "8"/],
    [part("a.weight_table", "bf16", [3, 5]), 8, /codebooks have 2 to 4 bits/],
    [part("a.weight_codes", "i32", [24, 5]), 8, /"a\.weight_codes" must be i32\[24,4\]/],
    [part("a.weight_table", "i32", [3, 8]), 8, /scales are i32/],
    [without, 8, /expected the sizes of a weight as i64, got nothing/],
  ];
  for (const [tensors, rows, why] of cases) {
    await assert.rejects(recognized(tensors, rows), (error: Error) => {
      assert(error instanceof CheckpointError);
      assert.match(error.message, why);
      return true;
    });
  }
  assert.match(
    String(codebookFormat.supports({ kind: "nf4", block: 64, doubleQuant: false }, {
      name: "a.weight",
      dtype: "bf16",
      shape: [4, 4],
    })),
    /not nf4/,
  );
});
