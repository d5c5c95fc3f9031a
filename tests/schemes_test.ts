/**
 * Schemes, presets and rounding to nearest: errors in dB, products as runtimes compute them,
 * refusals that name what would do.
 */
import assert from "node:assert/strict";
import type { Backend, Scope, Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { parseHeader } from "../src/containers/safetensors.ts";
import { RequestError } from "../src/errors.ts";
import { rtn } from "../src/methods/rtn.ts";
import { e4m3ToF32, f32ToE4m3, roundHalfEven } from "../src/number.ts";
import type { Activations, IntScheme, ScaleSearch, Scheme } from "../src/scheme.ts";
import type { OptionValues } from "../src/option.ts";
import { PRESETS, presetScheme, SCHEME_KINDS, schemeKind } from "../src/schemes/mod.ts";
import { schemeFrom } from "../src/schemes/options.ts";
import { withInputScale } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

/**
 * Standard normal numbers, the same every time (Box and Muller, from a linear congruential
 * generator).
 */
function normals(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed >>> 0;
  const uniform = () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

function upload(values: Float32Array<ArrayBuffer>, shape: readonly number[], scope: Scope): Tensor {
  const tensor = scope.alloc("f32", shape);
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

async function download(tensor: Tensor, backend: Backend): Promise<Float32Array> {
  const [bytes] = await backend.read(tensor);
  return new Float32Array(bytes!.buffer);
}

/** Signal to quantization noise of a scheme on a normal weight, in dB. */
async function sqnr(scheme: Scheme, search: ScaleSearch = "minmax"): Promise<number> {
  const backend = referenceBackend();
  using scope = backend.scope();
  const shape = [search === "minmax" ? 1024 : 128, 128];
  const values = normals(shape[0]! * shape[1]!, 7);
  const weight = upload(values, shape, scope);
  const kind = schemeKind(scheme);
  const back = await download(
    kind.dequantize(await kind.quantize(scheme, weight, { scope, search }), scope),
    backend,
  );
  let signal = 0;
  let noise = 0;
  values.forEach((value, i) => {
    signal += value ** 2;
    noise += (value - back[i]!) ** 2;
  });
  return 10 * Math.log10(signal / noise);
}

function int(bits: IntScheme["bits"], options: Partial<IntScheme> = {}): IntScheme {
  return {
    kind: "int",
    bits,
    grid: "full",
    strategy: { kind: "group", size: 64 },
    scaleDType: "f32",
    activations: "none",
    ...options,
  };
}

Deno.test("errors on normal weights are those that others have measured, in dB", async () => {
  const group128 = { kind: "group", size: 128 } as const;
  const cases: [string, Scheme, number][] = [
    ["int4 g64 restricted", int(4, { grid: "restricted" }), 19.36],
    ["int4 g64 full", int(4), 19.76],
    ["int4 g64 affine", int(4, { grid: "affine" }), 20.81],
    ["int4 g32 full", int(4, { strategy: { kind: "group", size: 32 } }), 20.46],
    ["int4 g128 affine", int(4, { grid: "affine", strategy: group128 }), 19.96],
    ["int2 g128 full", int(2, { strategy: group128 }), 5.2],
    ["int3 g128 affine", int(3, { grid: "affine", strategy: group128 }), 13.33],
    ["int8 g128 full", int(8, { strategy: group128 }), 43.72],
    ["nf4 b64", { kind: "nf4", block: 64, doubleQuant: false }, 20.73],
    ["fp4 b64", { kind: "fp4", block: 64, doubleQuant: false }, 18.27],
  ];
  for (const [name, scheme, want] of cases) {
    const got = await sqnr(scheme);
    assert(Math.abs(got - want) < 0.12, `${name}: ${got.toFixed(2)} dB, not ${want}`);
  }
});

Deno.test("searched scales are better than min-max scales, and least squares is best in squared error", async () => {
  for (const grid of ["full", "affine"] as const) {
    const scheme = int(3, { grid });
    const [minmax, mse, frobenius] = [
      await sqnr(scheme),
      await sqnr(scheme, "mse"),
      await sqnr(scheme, "frobenius"),
    ];
    assert(mse > minmax + 0.2, `${grid}: ${mse} against ${minmax} dB`);
    assert(frobenius >= mse, `${grid}: ${frobenius} against ${mse} dB`);
  }
});

/** x·Wᵀ in float64. */
function product(x: Float32Array, w: Float32Array, columns: number): Float64Array {
  const [tokens, rows] = [x.length / columns, w.length / columns];
  const y = new Float64Array(tokens * rows);
  for (let t = 0; t < tokens; t++) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        y[t * rows + r]! += x[t * columns + c]! * w[r * columns + c]!;
      }
    }
  }
  return y;
}

/**
 * A fixed scale of inputs that are normally distributed: a few of them lie beyond its outermost
 * int8 level.
 */
const INPUT_SCALE = Math.fround(2 / 127.5);

/** What the runtime makes of activations, row by row or by a fixed scale. */
function rounded(x: Float32Array, columns: number, kind: Activations): Float32Array {
  const isInt = kind.startsWith("int8");
  return x.map((value, i) => {
    const from = Math.floor(i / columns) * columns;
    const most = x.subarray(from, from + columns).reduce((max, v) => Math.max(max, Math.abs(v)), 0);
    if (most === 0) return 0;
    const scale = kind.endsWith("-static")
      ? INPUT_SCALE
      : Math.fround(most / (isInt ? 127.5 : 448));
    const code = Math.fround(value / scale);
    if (!isInt) return e4m3ToF32(f32ToE4m3(code)) * scale;
    return Math.min(127, Math.max(-128, roundHalfEven(code))) * scale;
  });
}

await onEveryBackend(
  "linear() is the product with the dequantized weight, activations rounded if the scheme says so",
  async (backend) => {
    const [tokens, rows, columns, width, column] = [5, 12, 64, 20, 3] as const;
    const group = { kind: "group", size: 16 } as const;
    const schemes: Scheme[] = [
      int(4, { strategy: group }),
      int(4, { strategy: group, grid: "affine" }),
      int(3, { strategy: group }),
      int(8, { strategy: { kind: "channel" } }),
      int(2, { strategy: { kind: "tensor" } }),
      int(4, { strategy: { kind: "block", rows: 4, columns: 16 } }),
      int(8, { strategy: { kind: "channel" }, activations: "int8" }),
      { kind: "fp8", strategy: { kind: "channel" }, scaleDType: "f32", activations: "fp8" },
      { kind: "fp8", strategy: { kind: "tensor" }, scaleDType: "bf16", activations: "none" },
      int(8, { strategy: { kind: "channel" }, activations: "int8-static" }),
      { kind: "fp8", strategy: { kind: "channel" }, scaleDType: "f32", activations: "fp8-static" },
      { kind: "nf4", block: 64, doubleQuant: true },
      { kind: "fp4", block: 32, doubleQuant: false },
      { kind: "cast", dtype: "bf16" },
      { kind: "cast", dtype: "f32" },
    ];
    const xs = normals(tokens * columns, 1);
    xs.fill(0, 2 * columns, 3 * columns);
    for (const scheme of schemes) {
      using scope = backend.scope();
      const kind = schemeKind(scheme);
      const weight = upload(normals(rows * columns, 2), [rows, columns], scope);
      const bare = await kind.quantize(scheme, weight, { scope, search: "minmax" });
      const quantized = withInputScale(bare, INPUT_SCALE, scope);
      const x = upload(xs, [tokens, columns], scope);
      const y = upload(new Float32Array(tokens * width).fill(-77), [tokens, width], scope);
      kind.linear(quantized, x, y, { scope, column });
      const w = await download(kind.dequantize(quantized, scope), backend);
      const activations = "activations" in scheme ? scheme.activations : "none";
      const input = activations === "none" ? xs : rounded(xs, columns, activations);
      const want = product(input, w, columns);
      const got = await download(y, backend);
      // Activations at a tie may take the neighbouring code where division is not exact: one code
      // of one input.
      const slack = activations === "none" || backend.name !== "webgpu" ? 1e-4 : 0.1;
      got.forEach((value, i) => {
        const r = i % width - column;
        if (r < 0 || r >= rows) {
          return assert.equal(value, -77, `${kind.label(scheme)} column ${r}`);
        }
        const right = want[Math.floor(i / width) * rows + r]!;
        assert(Math.abs(value - right) < slack, `${kind.label(scheme)}: ${value}, not ${right}`);
      });
    }
  },
);

await onEveryBackend(
  "LLM.int8()'s product is bitsandbytes', with outliers and without",
  async (backend) => {
    const file = "bitsandbytes.safetensors";
    const data = Deno.readFileSync(new URL(`golden/${file}`, import.meta.url));
    const { tensors } = parseHeader(data, { file, fileSize: data.length });
    const bytes = (name: string) => {
      const { begin, end } = tensors.find((tensor) => tensor.name === name)!;
      return data.slice(begin, end);
    };
    for (const threshold of [6, 0]) {
      using scope = backend.scope();
      const scheme = { kind: "llm_int8", threshold } as const;
      const weight = scope.alloc("bf16", [24, 100]);
      backend.write(weight, bytes("original.int8"));
      const kind = schemeKind(scheme);
      const quantized = await kind.quantize(scheme, weight, { scope, search: "minmax" });
      const x = upload(new Float32Array(bytes("linear.x").buffer), [7, 100], scope);
      const y = scope.alloc("f32", [7, 24]);
      kind.linear(quantized, x, y, { scope, column: 0 });
      const got = await download(y, backend);
      const want = new Float32Array(bytes(`linear.y${threshold}`).buffer);
      const most = want.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
      // The library's CPU code multiplies by 6.200124e-05 where 1/127² is 6.200012e-05: 1.8e-5 of
      // the result. On a GPU a code at a tie may be its neighbour: one step of an activation times
      // a weight.
      const slack = backend.name === "webgpu" ? 2e-3 * most : 2.5e-5 * most;
      got.forEach((value, i) => {
        assert(Math.abs(value - want[i]!) <= slack, `y[${i}] is ${value}, not ${want[i]}`);
      });
    }
  },
);

Deno.test("a group size that does not divide the row is refused with those that do", () => {
  const refusal = schemeKind(int(4)).check(int(4, { strategy: { kind: "group", size: 128 } }), [
    576,
    576,
  ]);
  assert.equal(
    refusal,
    "group size 128 does not divide 576 columns; 192, 96, 64, 48, 32, 16, 8 do",
  );
  const prime = schemeKind(int(4)).check(int(4), [8, 97]);
  assert.equal(prime, "group size 64 does not divide 97 columns; 97, 1 do");
});

Deno.test("schemes refuse shapes and numbers that mean nothing", () => {
  const refused: [Scheme, readonly number[]][] = [
    [int(4), [64]],
    [int(4), [0, 64]],
    [int(9 as IntScheme["bits"]), [64, 64]],
    [int(4, { strategy: { kind: "group", size: 0 } }), [64, 64]],
    [int(4, { strategy: { kind: "block", rows: 1.5, columns: 4 } }), [64, 64]],
    [{ kind: "nf4", block: 48, doubleQuant: true }, [64, 64]],
    [{ kind: "nf4", block: 64, doubleQuant: true }, [0, 64]],
    [{ kind: "llm_int8", threshold: -1 }, [64, 64]],
    [{ kind: "llm_int8", threshold: NaN }, [64, 64]],
  ];
  for (const [scheme, shape] of refused) {
    const verdict = schemeKind(scheme).check(scheme, shape);
    assert.equal(typeof verdict, "string", `${JSON.stringify(scheme)} [${shape}]`);
  }
});

Deno.test("presets are the schemes that users know by these names", () => {
  const scheme = (name: string, options = {}) =>
    presetScheme(name, { modelDType: "bf16", ...options });
  assert.deepEqual(scheme("W4A16"), {
    scheme: int(4, { strategy: { kind: "group", size: 128 }, scaleDType: "bf16" }),
    format: "compressed-tensors",
  });
  assert.deepEqual(
    scheme("w4a16-asym", { groupSize: 64 }).scheme,
    int(4, { grid: "affine", scaleDType: "bf16" }),
  );
  assert.deepEqual(
    scheme("W8A16").scheme,
    int(8, { strategy: { kind: "channel" }, scaleDType: "bf16" }),
  );
  assert.deepEqual(
    scheme("W4A16", { groupSize: -1 }).scheme,
    int(4, { strategy: { kind: "channel" }, scaleDType: "bf16" }),
  );
  assert.deepEqual(scheme("NF4"), {
    scheme: { kind: "nf4", block: 64, doubleQuant: true },
    format: "bitsandbytes",
  });
  assert.deepEqual(scheme("LLM_INT8").scheme, { kind: "llm_int8", threshold: 6 });
  assert.deepEqual(scheme("BF16"), { scheme: { kind: "cast", dtype: "bf16" }, format: "plain" });
  assert.equal(
    schemeKind(scheme("W8A8").scheme).label(scheme("W8A8").scheme),
    "int8, per channel, symmetric, int8 activations",
  );
  const fixed = scheme("FP8_DYNAMIC", { activations: "static" }).scheme;
  assert.deepEqual(fixed, {
    kind: "fp8",
    strategy: { kind: "channel" },
    scaleDType: "bf16",
    activations: "fp8-static",
  });
  assert.equal(schemeKind(fixed).label(fixed), "fp8 E4M3, per channel, fp8 activations, static");
});

Deno.test("ways to find ranges are refused where every token has a scale of its own, and where they do not fit", () => {
  const from = (name: string, options: OptionValues) =>
    schemeFrom(name, options, { modelDType: "bf16" });
  const fixed = from("W8A8", { activations: "static", observer: "percentile", percentile: 99 });
  assert.equal(fixed.kind === "int" && fixed.activations, "int8-static");
  assert.deepEqual(from("W8A8", { activations: "dynamic" }), from("W8A8", {}));
  const wrong: [string, OptionValues, RegExp][] = [
    [
      "W8A8",
      { observer: "mse" },
      /`observer` with W8A8 and dynamic activations: .*add `activations` static\.$/,
    ],
    ["W8A8", { activations: "dynamic", percentile: 99 }, /`percentile` with W8A8 and dynamic/],
    [
      "FP8_DYNAMIC",
      { activations: "static", percentile: 99 },
      /the observer mse: add `observer` percentile\.$/,
    ],
    [
      "W4A16",
      { activations: "static" },
      /activations static with a scheme that leaves .* int8 or fp8/,
    ],
    ["FP8", { observer: "mse" }, /`observer` with FP8: it takes/],
  ];
  for (const [name, options, says] of wrong) {
    assert.throws(() => from(name, options), (error) => {
      assert.ok(error instanceof RequestError);
      assert.match(error.message, says);
      return true;
    });
  }
});

Deno.test("a preset refuses options it does not take, and unknown names, by name", () => {
  assert.throws(
    () => presetScheme("NF4", { modelDType: "bf16", groupSize: 64 }),
    (error) =>
      error instanceof RequestError &&
      /groupSize with NF4: it takes block, doubleQuant/.test(error.message),
  );
  assert.throws(() => presetScheme("W9A8", { modelDType: "bf16" }), /names are W4A16/);
  assert.throws(
    () =>
      presetScheme("W4A16", { modelDType: "bf16", groupSize: 64, strategy: { kind: "channel" } }),
    RequestError,
  );
});

Deno.test("every preset has a kind that labels it and takes a matrix", () => {
  for (const preset of PRESETS) {
    const scheme = preset.scheme({ modelDType: "f16" });
    const kind = schemeKind(scheme);
    assert(SCHEME_KINDS.includes(kind));
    assert.equal(kind.check(scheme, [256, 256]), true, preset.name);
    assert(kind.label(scheme).length > 2);
    assert(kind.workBytes(scheme, 256, 256) >= kind.codeBytes(scheme, 256, 256));
    assert(kind.workBytes(scheme, 256, 256) >= 0 && kind.linearBytes(scheme, [256, 256], 8) >= 0);
  }
});

Deno.test("rtn searches scales for int only, and says so before the run", () => {
  assert.equal(rtn.supports(int(4), { scale: "mse" }), true);
  assert.equal(rtn.supports({ kind: "nf4", block: 64, doubleQuant: true }, {}), true);
  assert.match(
    String(rtn.supports({ kind: "nf4", block: 64, doubleQuant: true }, { scale: "mse" })),
    /only those of int/,
  );
});

Deno.test("rtn quantizes slices of rows as the whole", async () => {
  const backend = referenceBackend();
  using scope = backend.scope();
  const values = normals(16 * 96, 5);
  const schemes: Scheme[] = [
    int(4, { strategy: { kind: "group", size: 32 } }),
    int(4, { strategy: { kind: "block", rows: 4, columns: 32 } }),
    { kind: "nf4", block: 128, doubleQuant: false },
    { kind: "llm_int8", threshold: 6 },
  ];
  const run = async (scheme: Scheme, from: number, to: number) => {
    const weight = upload(values.slice(from * 96, to * 96), [to - from, 96], scope);
    const rounder = await rtn.open({
      names: ["w"],
      scheme,
      options: { scale: "minmax" },
      scope,
      report: () => {},
    });
    const { quantized: { tensors } } = await rounder.round({ weight, scope });
    const [codes] = await backend.read(tensors.codes!);
    return Array.from(codes!);
  };
  for (const scheme of schemes) {
    assert.equal(16 % schemeKind(scheme).rowStep(scheme, [16, 96]), 0);
    const whole = await run(scheme, 0, 16);
    const parts = [...await run(scheme, 0, 4), ...await run(scheme, 4, 16)];
    assert.deepEqual(parts, whole, scheme.kind);
  }
});
