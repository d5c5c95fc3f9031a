/** inspect() says what a checkpoint is from its headers. */
import assert from "node:assert/strict";
import { inspect } from "../src/inspect.ts";
import { open } from "../src/open.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { convolutionalTensors, makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

Deno.test("inspect() counts the sample's parameters, dtypes and files", async () => {
  await using source = await open("sample");
  const found = inspect(source);
  assert.equal(found.elements, 4_065_536);
  assert.equal(found.bytes, 2 * 4_065_536);
  assert.deepEqual([found.modelType, found.runs, found.quantization], ["llama", true, undefined]);
  assert.deepEqual(found.dtypes, [{
    dtype: "bf16",
    tensors: 38,
    elements: 4_065_536,
    bytes: 8_131_072,
  }]);
  assert.deepEqual(
    found.files.filter(({ tensors }) => tensors > 0).map(({ tensors }) => tensors).reduce((a, b) =>
      a + b
    ),
    38,
  );
  assert.ok(found.files.some(({ path }) => path === "config.json"));
});

async function inspected(...made: Parameters<typeof makeCheckpoint>) {
  const folder = await makeCheckpoint(...made);
  try {
    await using source = await openCheckpoint(folder);
    return inspect(source);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("inspect() needs no config.json, and knows a model it does not run", async () => {
  const found = await inspected(convolutionalTensors());
  assert.deepEqual([found.modelType, found.runs, found.quantization], [
    undefined,
    false,
    undefined,
  ]);
  assert.deepEqual(found.dtypes.map(({ dtype }) => dtype), ["f32", "i64"]);
});

Deno.test("inspect() names the quantization that config.json or the tensors tell of", async () => {
  const config = (quantization_config: unknown) => ({
    config: { ...TINY_CONFIG, quantization_config },
  });
  const hqq = await inspected(tinyTensors(), config({ quant_method: "hqq", bits: 4 }));
  assert.deepEqual(hqq.quantization, {
    method: "hqq",
    format: undefined,
    section: { quant_method: "hqq", bits: 4 },
  });
  const gptq = await inspected(tinyTensors(), config({ quant_method: "gptq", bits: 4 }));
  assert.equal(gptq.quantization?.format, "gptq");
  const bnb = await inspected(tinyTensors(), config({ load_in_4bit: true }));
  assert.equal(bnb.quantization?.format, "bitsandbytes");
  const bare = await inspected([{ name: "a.qweight", dtype: "i32", shape: [2, 2] }]);
  assert.deepEqual(bare.quantization, { method: "GPTQ or AWQ", format: undefined, section: {} });
});
