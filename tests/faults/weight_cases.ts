/**
 * W1: weights at the ends of their dtype, in every dtype and by every scheme. NaN and infinity are
 * refused by the tensor's name, and nothing is left; all else is quantized to finite values, which
 * are read back and verified. What is no dtype of weights is copied as it is.
 */
import assert from "node:assert/strict";
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { CheckpointError } from "../../src/errors.ts";
import { disk } from "../../src/io/disk.ts";
import { bytesFrom, floatsFrom } from "../../src/number.ts";
import { PRESETS } from "../../src/schemes/presets.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { verify } from "../../src/verify.ts";
import { findWeights } from "../../src/verify/stored.ts";
import { schemeKind } from "../../src/schemes/mod.ts";
import { folder, quantize } from "../run_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";
import type { Suite } from "./suite.ts";

const NAME = "model.layers.1.mlp.down_proj.weight";
/** Of the weight. */
const COLUMNS = 128;

/** Dtypes of weights: the greatest value, and the least above 0, of each that is quantized. */
const DTYPES = {
  bf16: { most: (2 - 2 ** -7) * 2 ** 127, least: 2 ** -133 },
  f16: { most: 65504, least: 2 ** -24 },
  f32: { most: (2 - 2 ** -23) * 2 ** 127, least: 2 ** -149 },
  f8_e4m3: undefined,
} as const;
type DType = keyof typeof DTYPES;

/** What a weight holds, by what is said of it: each changes its third and fourth row of values. */
const HELD: Readonly<
  Record<string, (row: Float32Array, ends: { most: number; least: number }) => void>
> = {
  "a NaN": (row) => row[7] = NaN,
  "an infinity": (row) => row[7] = Infinity,
  "an infinity below 0": (row) => row[7] = -Infinity,
  "rows of zeros": (row) => row.fill(0),
  "rows of the least values": (row, { least }) => row.forEach((_, i) => row[i] = least * (i % 3)),
  "rows of −0": (row) => row.fill(-0),
  "the greatest values": (row, { most }) => row.set([most, -most], 6),
  "an outlier": (row) => row[7] = 1000,
};

/** Whether a weight may be refused, and whether it must be. */
function refusalOf({ dtype, held }: Case): "never" | "maybe" | "always" {
  if (!DTYPES[dtype]) return "never";
  if (/NaN|infinity/.test(held)) return "always";
  // The scale of such a range, or the value itself, may be past what it is stored in.
  return held === "the greatest values" ? "maybe" : "never";
}

/** A weight, and what is made of it. */
interface Case {
  readonly dtype: DType;
  readonly held: string;
  readonly options: Readonly<Record<string, string | number>>;
}

/** The dtype of the rest of the model. */
const floatOf = (dtype: DType) => dtype === "f8_e4m3" ? "bf16" : dtype;

/** A model of which one weight holds something. */
async function modelOf(dtype: DType, held: string): Promise<string> {
  const ends = DTYPES[dtype];
  const float = floatOf(dtype);
  const tensors = tinyTensors(float).map((tensor) =>
    tensor.name === NAME ? { ...tensor, dtype } : tensor
  );
  return await makeCheckpoint(tensors, {
    config: {
      ...TINY_CONFIG,
      torch_dtype: { bf16: "bfloat16", f16: "float16", f32: "float32" }[float],
    },
    change(name, bytes) {
      if (name !== NAME) return;
      // Of no dtype that is quantized: every code there is.
      if (!ends) return void bytes.forEach((_, i) => bytes[i] = i & 255);
      const size = float === "f32" ? 4 : 2;
      for (const at of [2, 3]) {
        const row = bytes.subarray(at * COLUMNS * size, (at + 1) * COLUMNS * size);
        const values = Float32Array.from({ length: COLUMNS }, (_, i) => 0.1 * Math.sin(i + at));
        HELD[held]!(values, ends);
        row.set(bytesFrom(float, values));
      }
    },
  });
}

/** Weights at the ends of their dtype. */
export const W1: Suite = {
  id: "W1",
  title: "weights at the ends of their dtype, in every dtype and by every scheme",
  share: 24,
  async open() {
    await using undo = new AsyncDisposableStack();
    const backend = undo.use(await openWasm({ threads: 1 }));
    const cases = (Object.keys(DTYPES) as DType[]).flatMap((dtype) =>
      (DTYPES[dtype] ? Object.keys(HELD) : ["every code"]).flatMap((held) =>
        PRESETS.flatMap(({ name: scheme, takes }): Case[] => {
          const group = takes.includes("groupSize") ? { "group-size": 32 } : {};
          // A cast to what it is already is nothing to do.
          return scheme.toLowerCase() === floatOf(dtype)
            ? []
            : [{ dtype, held, options: { scheme, method: "rtn", ...group } }];
        })
      )
    );
    const kept = undo.move();
    return {
      count: cases.length,
      async run(index) {
        const given = cases[index]!;
        const { dtype, held, options } = given;
        await using into = await folder();
        const model = await modelOf(dtype, held);
        await using _ = { [Symbol.asyncDispose]: () => Deno.remove(model, { recursive: true }) };
        const refusal = refusalOf(given);
        const [result] = await Promise.allSettled([
          quantize(model, options, { backend, into: into.path }),
        ]);
        if (result.status === "rejected") {
          const { reason } = result as { readonly reason: unknown };
          assert.ok(reason instanceof CheckpointError && refusal !== "never", String(reason));
          assert.ok(reason.message.includes(`"${NAME}"`), reason.message);
          assert.deepEqual(await disk.list(into.path), []);
          return "refused";
        }
        assert.notEqual(refusal, "always");
        const { out, report } = result.value;
        await using source = await openCheckpoint(model);
        await using made = await openCheckpoint(out);
        const { quantized } = await verify(out, { backend, source });
        // The squares of the greatest floats are past what they are summed in.
        if (held !== "the greatest values" || dtype === "f16") {
          for (const { name, metrics } of [...report.tensors, ...quantized]) {
            for (const [metric, value] of Object.entries(metrics)) {
              assert.ok(!Number.isNaN(value), `${metric} of ${name} is NaN`);
            }
          }
        }
        const { format, weights } = await findWeights(made);
        const stored = weights.get(NAME);
        if (stored) {
          using scope = backend.scope();
          const codes = await format!.unpack(stored, made.read.bind(made), { scope });
          const [bytes] = await backend.read(
            schemeKind(codes.scheme).dequantize(codes, scope),
          );
          assert.ok(new Float32Array(bytes!.buffer).every(Number.isFinite), "it is not finite");
          return "quantized";
        }
        const bytes = await made.read(NAME);
        if (DTYPES[dtype]) {
          const float = made.tensors.get(NAME)!.dtype as "bf16" | "f16" | "f32";
          assert.ok(floatsFrom(float, bytes).every(Number.isFinite), "it is not finite");
          return "cast or rounded";
        }
        assert.deepEqual(bytes, await source.read(NAME));
        return "copied";
      },
      [Symbol.asyncDispose]: () => kept.disposeAsync(),
    };
  },
};
