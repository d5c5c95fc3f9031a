/**
 * verify() accepts what Sluice writes and finds every kind of damage, naming the tensor or the
 * file.
 */
import assert from "node:assert/strict";
import type { Backend } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { parseHeader } from "../src/containers/safetensors.ts";
import { CheckpointError } from "../src/errors.ts";
import { plan } from "../src/plan.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import type { Event } from "../src/report.ts";
import { run } from "../src/run.ts";
import { openFolderSink } from "../src/sinks/folder.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import type { TensorInfo } from "../src/tensor.ts";
import { verify } from "../src/verify.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

const INT4 = { scheme: "W4A16", "group-size": 32, method: "rtn" } as const;

/** What old checkpoints hold and no loader reads. */
const FREQUENCIES = {
  name: "model.layers.0.self_attn.rotary_emb.inv_freq",
  dtype: "f32",
  shape: [8],
} as const;

interface Made {
  readonly source: string;
  readonly output: string;
  readonly backend: Backend;
}

/** Run `test` with a tiny Llama and what a recipe makes of it. */
async function withOutput(
  options: Readonly<Record<string, string | number>>,
  test: (made: Made) => Promise<void>,
  more: readonly TensorInfo[] = [],
): Promise<void> {
  const source = await makeCheckpoint([...tinyTensors(), ...more], { config: TINY_CONFIG });
  const output = `${await Deno.realPath(source)}-out`;
  try {
    await Deno.writeTextFile(`${source}/tokenizer.json`, "{}");
    await using backend = await openWasm({ threads: 1 });
    {
      await using original = await openCheckpoint(source);
      await using sink = await openFolderSink(output);
      const work = plan(recipeFromOptions(options), original, { device: backend });
      await run(work, { source: original, backend, sink });
    }
    await test({ source, output, backend });
  } finally {
    for (const folder of [source, output]) await Deno.remove(folder, { recursive: true });
  }
}

/** Change the bytes of one tensor of a written checkpoint. */
async function damage(
  output: string,
  tensor: string,
  change: (bytes: Uint8Array) => void,
): Promise<void> {
  const path = `${output}/model.safetensors`;
  const bytes = await Deno.readFile(path);
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = parseHeader(bytes.subarray(0, 8 + length), { file: path, fileSize: bytes.length });
  const place = header.tensors.find(({ name }) => name === tensor);
  assert.ok(place, `${tensor} is not in the file`);
  change(bytes.subarray(place.begin, place.end));
  await Deno.writeFile(path, bytes);
}

/** Verify against the source, or alone, and expect a CheckpointError. */
async function refuses(
  { source, output, backend }: Made,
  { says, alone = false, tensor }: { says: RegExp; alone?: boolean; tensor?: string },
): Promise<void> {
  await using original = await openCheckpoint(source);
  await assert.rejects(
    verify(output, alone ? { backend } : { backend, source: original }),
    (error) => {
      assert.ok(error instanceof CheckpointError, String(error));
      assert.match(error.message, says);
      if (tensor !== undefined) assert.equal(error.tensor, tensor);
      return true;
    },
  );
}

const DOWN = "model.layers.1.mlp.down_proj";

Deno.test("verify() reports every weight, copied tensors, files and loaders, and events as it goes", () =>
  withOutput(INT4, async ({ source, output, backend }) => {
    await using original = await openCheckpoint(source);
    const events: Event[] = [];
    const report = await verify(output, {
      backend,
      source: original,
      report: (event) => events.push(event),
    });
    assert.equal(report.format, "compressed-tensors");
    assert.equal(report.quantized.length, 14);
    assert.equal(report.copied, 7);
    assert.deepEqual(report.dropped, []);
    assert.deepEqual(report.files, ["tokenizer.json"]);
    // int4 of uniform weights: 20·log10(15) = 23.5 dB for a full range, and group scales are a
    // little off it.
    for (const { metrics } of report.quantized) {
      assert.ok(metrics.sqnr_db! > 22 && metrics.sqnr_db! < 26, String(metrics.sqnr_db));
    }
    assert.ok(report.loaders.some(({ name, opens }) => name === "vLLM" && opens === "yes"));
    const [start] = events;
    assert.ok(start?.type === "start");
    const counted = events.reduce(
      (n, event) => event.type === "quantized" || event.type === "copied" ? n + event.bytes : n,
      0,
    );
    assert.equal(counted, start.bytes);
    assert.equal(report.bytes, start.bytes);
  }));

Deno.test("verify() says that it begins before it reads the source, and how far it has looked for moved scales", () =>
  withOutput(INT4, async ({ source, output, backend }) => {
    await using original = await openCheckpoint(source);
    let reads = 0;
    const told: (readonly [what: string, reads: number])[] = [];
    await verify(output, {
      backend,
      source: {
        ...original,
        read(...call) {
          reads++;
          return original.read(...call);
        },
      },
      report(event) {
        const what = event.type === "examined" ? `${event.done} of ${event.total}` : event.type;
        told.push([what, reads]);
      },
    });
    const [start, first, second, third] = told.map(([what]) => what);
    assert.deepEqual([start, first, second, third], ["start", "1 of 2", "2 of 2", "quantized"]);
    assert.equal(told[0]![1], 0);
    assert.ok(told[1]![1] > 0 && told[2]![1] > told[1]![1]);
  }));

Deno.test("verify() without a source checks structure and scales, and gives no metrics", () =>
  withOutput(INT4, async ({ output, backend }) => {
    const report = await verify(output, { backend });
    assert.equal(report.quantized.length, 14);
    assert.deepEqual(report.quantized[0]?.metrics, {});
    assert.equal(report.copied, 0);
  }));

Deno.test("verify() knows the tensors that are left out of every output", () =>
  withOutput({ scheme: "W8A16" }, async ({ source, output, backend }) => {
    await using original = await openCheckpoint(source);
    const { dropped } = await verify(output, { backend, source: original });
    assert.deepEqual(dropped, [FREQUENCIES.name]);
  }, [FREQUENCIES]));

Deno.test("verify() finds a changed byte of a copied tensor, and says which", () =>
  withOutput(INT4, async (made) => {
    await damage(made.output, "model.norm.weight", (bytes) => bytes[77]! ^= 1);
    await refuses(made, { says: /byte 77 differs/, tensor: "model.norm.weight" });
  }));

for (
  const [scheme, part, size] of [
    ["W4A16", "weight_scale", 2],
    ["W8A8", "weight_scale", 2],
    ["FP8_DYNAMIC", "weight_scale", 2],
    ["LLM_INT8", "SCB", 4],
  ] as const
) {
  for (const [what, high] of [["NaN", 0xc0], ["infinity", 0x80]] as const) {
    Deno.test(`verify() finds ${what} among the scales of ${scheme}, with and without the source`, () => {
      const options = scheme === "W4A16" ? INT4 : { scheme };
      return withOutput(options, async (made) => {
        // The two upper bytes of bf16 and of f32 are the same.
        await damage(
          made.output,
          `${DOWN}.${part}`,
          (bytes) => bytes.set([high, 0x7f], 3 * size + size - 2),
        );
        for (const alone of [false, true]) {
          await refuses(made, {
            says: /one of its scales is (NaN|Infinity)/,
            alone,
            tensor: `${DOWN}.weight`,
          });
        }
      });
    });
  }
}

Deno.test("verify() finds NaN among fp8 values", () =>
  withOutput({ scheme: "FP8" }, async (made) => {
    await damage(made.output, `${DOWN}.weight`, (bytes) => bytes[1000] = 0xff);
    await refuses(made, { says: /fp8 values is NaN/, alone: true, tensor: `${DOWN}.weight` });
  }));

for (const scheme of ["W4A16", "W8A16", "FP8", "NF4", "LLM_INT8"]) {
  Deno.test(`verify() finds ${scheme} codes that belong to another weight`, () => {
    const options = scheme === "W4A16" ? INT4 : { scheme };
    const part = scheme === "W4A16" || scheme === "W8A16" ? "weight_packed" : "weight";
    return withOutput(options, async (made) => {
      await damage(made.output, `${DOWN}.${part}`, (bytes) => bytes.reverse());
      await refuses(made, {
        says: /further from the source's than zeros/,
        tensor: `${DOWN}.weight`,
      });
    });
  });
}

Deno.test("verify() finds a file that is cut short", () =>
  withOutput(INT4, async (made) => {
    const path = `${made.output}/model.safetensors`;
    await Deno.truncate(path, (await Deno.stat(path)).size - 1);
    await refuses(made, { says: /model\.safetensors/, alone: true });
  }));

Deno.test("verify() finds a companion file that differs, and one that is missing", () =>
  withOutput(INT4, async (made) => {
    await Deno.writeTextFile(`${made.output}/tokenizer.json`, "[]");
    await refuses(made, { says: /"tokenizer\.json": it is not the source's/ });
    await Deno.remove(`${made.output}/tokenizer.json`);
    await refuses(made, { says: /"tokenizer\.json": it is missing/ });
  }));

for (const format of ["gptq", "awq"]) {
  Deno.test(`verify() accepts what Sluice writes in ${format}, slice by slice, and finds what another tool would read otherwise`, () =>
    withOutput({ ...INT4, method: "rtn", format }, async (made) => {
      const { source, output } = made;
      await using original = await openCheckpoint(source);
      // Slices of 8 rows: every one of them needs all tensors of its weight.
      const backend = { ...referenceBackend(), sliceBytes: 64 * 2 * 8 };
      const report = await verify(output, { backend, source: original });
      assert.equal(report.format, format);
      assert.equal(report.quantized.length, 14);
      for (const { metrics } of report.quantized) assert.ok(metrics.sqnr_db! > 22);
      await damage(output, `${DOWN}.scales`, (bytes) => bytes.fill(0x7c, 0, 2));
      await refuses(made, { says: /one of its scales is/, tensor: `${DOWN}.weight` });
    }));
}

Deno.test("verify() wants quantize_config.json, if it is there, to say what config.json says", () =>
  withOutput({ ...INT4, method: "rtn", format: "gptq" }, async (made) => {
    const path = `${made.output}/quantize_config.json`;
    const section = JSON.parse(await Deno.readTextFile(path));
    const config = JSON.parse(await Deno.readTextFile(`${made.output}/config.json`));
    assert.deepEqual(section, config.quantization_config);
    const { backend } = made;
    const old = { bits: 4, group_size: 32, sym: true, desc_act: false }; // as AutoGPTQ wrote it
    await Deno.writeTextFile(path, JSON.stringify(old));
    await verify(made.output, { backend });
    await Deno.writeTextFile(path, JSON.stringify({ ...section, dynamic: { ".*up_proj": {} } }));
    await verify(made.output, { backend });
    await Deno.writeTextFile(path, "{");
    await refuses(made, { says: /quantize_config\.json: it is not JSON/, alone: true });
    await Deno.writeTextFile(path, "[]");
    await refuses(made, { says: /quantize_config\.json: it must hold an object/, alone: true });
    await Deno.writeTextFile(path, JSON.stringify({ ...section, quant_method: "awq" }));
    await refuses(made, { says: /is not quantized, and by config\.json int4/, alone: true });
    await Deno.remove(path);
    await verify(made.output, { backend });
  }));

/** Rewrite config.json of an output. */
async function editConfig(
  output: string,
  change: (config: Record<string, unknown>) => void,
): Promise<void> {
  const path = `${output}/config.json`;
  const config = JSON.parse(await Deno.readTextFile(path)) as Record<string, unknown>;
  change(config);
  await Deno.writeTextFile(path, JSON.stringify(config));
}

Deno.test("verify() finds quantized tensors that config.json does not speak of", () =>
  withOutput(INT4, async (made) => {
    await editConfig(made.output, (config) => delete config.quantization_config);
    await refuses(made, { says: /has no quantization_config that says so/, alone: true });
  }));

Deno.test("verify() finds a section of a method that Sluice does not read", () =>
  withOutput(INT4, async (made) => {
    await editConfig(
      made.output,
      (config) => config.quantization_config = { quant_method: "hqq" },
    );
    await refuses(made, {
      says: /\(hqq\), and Sluice reads compressed-tensors, bitsandbytes, codebook, gptq, awq/,
      alone: true,
    });
  }));

Deno.test("verify() finds a changed value of config.json", () =>
  withOutput(INT4, async (made) => {
    await editConfig(made.output, (config) => config.rope_theta = 500000);
    await refuses(made, { says: /its "rope_theta" differs/ });
  }));

Deno.test("verify() finds a source of another shape, a tensor too many and a tensor too few", () =>
  withOutput({ scheme: "W8A16" }, async (made) => {
    const other = async (
      change: (tensors: ReturnType<typeof tinyTensors>) => typeof tensors,
      says: RegExp,
    ) => {
      const source = await makeCheckpoint(change(tinyTensors()), { config: TINY_CONFIG });
      try {
        await refuses({ ...made, source }, { says });
      } finally {
        await Deno.remove(source, { recursive: true });
      }
    };
    await other(
      (tensors) => tensors.map((t) => t.name === `${DOWN}.weight` ? { ...t, shape: [128, 64] } : t),
      /stored with shape \[64, 128\], and .* has \[128, 64\]/,
    );
    await other(
      (tensors) => tensors.filter(({ name }) => name !== "model.norm.weight"),
      /has no such tensor/,
    );
    await other(
      (tensors) => [...tensors, { name: "zz.extra", dtype: "bf16", shape: [2] }],
      /"zz\.extra", and it does not/,
    );
  }));
