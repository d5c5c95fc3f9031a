/**
 * The energy of a token: sums by hand from headers, the anchor of a model of 135 million weights,
 * tables of others, and where it is told.
 */
import assert from "node:assert/strict";
import { referenceBackend } from "../src/backends/reference.ts";
import { RequestError } from "../src/errors.ts";
import { open } from "../src/open.ts";
import { plan } from "../src/plan.ts";
import {
  energyOf,
  energySentence,
  HOROWITZ,
  joules,
  parseEnergyTable,
} from "../src/plan/energy.ts";
import { modelCard } from "../src/publish/model_card.ts";
import { recipeFromOptions } from "../src/recipe.ts";
import { byteLength, elementCount, sum } from "../src/tensor.ts";

Deno.test("the energy of a token is that of the bytes it reads and of a product for each weight", async () => {
  await using source = await open("sample");
  await using device = referenceBackend();
  const work = plan(recipeFromOptions({ scheme: "W8A8" }), source, { device });
  const found = energyOf(work)!;
  const all = [...source.tensors.values()];
  const table = source.tensors.get("model.embed_tokens.weight")!;
  const head = source.tensors.get("lm_head.weight");
  const row = table.shape[1]! * 2;
  // An embedding that is not the head's matrix too is looked up: a row of it.
  const bytes = sum(all, byteLength) - (head ? byteLength(table) - row : 0);
  const matrices = all.filter(({ name }) =>
    name.includes("_proj.") || name === (head ?? table).name
  );
  const products = sum(matrices, ({ shape }) => elementCount(shape));
  assert.equal(found.original.bytes, bytes);
  assert.equal(found.original.operations, 2 * products);
  assert.equal(found.original.memory_pj, bytes * 8 * 20);
  assert(Math.abs(found.original.compute_pj / (products * (1.1 + 0.9)) - 1) < 1e-12);
  // W8A8 multiplies int8, the head floats.
  const floats = elementCount((head ?? table).shape);
  const compute = floats * (1.1 + 0.9) + (products - floats) * (0.2 + 0.1);
  assert(Math.abs(found.quantized.compute_pj / compute - 1) < 1e-12);
  const stored = work.files.flatMap(({ tensors }) => tensors).filter(({ name }) =>
    !head || name !== table.name
  );
  assert.equal(found.quantized.bytes, sum(stored, byteLength) + (head ? row : 0));
  assert.equal(found.quality_kept, null);
  assert.equal(found.efficiency, null);
  const { memory_pj, compute_pj, operations, tops_per_watt } = found.quantized;
  assert.equal(tops_per_watt, operations / (memory_pj + compute_pj));

  const scores = { perplexity: { perplexity: 20, original_perplexity: 16 } };
  const measured = energyOf(work, { scores })!;
  assert.equal(measured.quality_kept, 0.8);
  assert.equal(measured.efficiency, tops_per_watt * 0.8);
  assert.equal(
    energyOf(work, { scores: { perplexity: { perplexity: NaN, original_perplexity: 16 } } })!
      .quality_kept,
    null,
  );
  const free = { ...HOROWITZ, source: "here", memoryPerBit: 0 };
  assert.equal(energyOf(work, { table: free })!.quantized.memory_pj, 0);

  assert.match(energySentence(measured), /an estimate \(Horowitz, ISSCC 2014/);
  assert.match(energySentence(measured), /with 80\.0 % of the quality kept/);
  const card = modelCard({ name: "me/model", energy: measured });
  assert.match(card, /## Energy\n\n.* a token, from .*an estimate/);
  assert.doesNotMatch(modelCard({ name: "me/model" }), /## Energy/);
});

Deno.test("a weight stored in half the bits takes half the energy, and unknown architectures none", async () => {
  await using source = await open("sample");
  await using device = referenceBackend();
  const of = (scheme: string) =>
    energyOf(plan(recipeFromOptions({ scheme, method: "rtn" }), source, { device }))!.quantized;
  const [eight, four] = [of("W8A16"), of("W4A16")];
  assert(four.memory_pj < eight.memory_pj);
  assert.equal(four.compute_pj, eight.compute_pj, "both multiply floats");
  assert.equal(energyOf({ model: undefined, units: [] }), undefined);
});

Deno.test("energies are shown in a unit that fits", () => {
  const shown = [0.5, 12, 4300, 2.5e6, 43e9, 6e12].map(joules);
  assert.deepEqual(shown, ["0.5 pJ", "12 pJ", "4.3 nJ", "2.5 µJ", "43 mJ", "6 J"]);
});

Deno.test("a table of energies is read, and one that is not whole is refused with what is missing", () => {
  const text = `
source: our board, measured
memory_pj_per_bit: 4
multiply_pj: { int8: 0.1, f16: 0.5, f32: 2 }
add_pj: { int32: 0.05, f32: 0.3 }
`;
  assert.deepEqual(parseEnergyTable(text, "board.yaml"), {
    source: "our board, measured",
    memoryPerBit: 4,
    multiply: { int8: 0.1, f16: 0.5, f32: 2 },
    add: { int32: 0.05, f32: 0.3 },
  });
  const broken: [string, RegExp][] = [
    [text.replace("4", "four"), /memory_pj_per_bit = "four"/],
    [text.replace("f16: 0.5, ", ""), /multiply_pj has "f16" = nothing/],
    [text.replace("int32", "int64"), /add_pj has "int64", which it does not know/],
    [text.replace("0.3", "-1"), /"f32" = -1, which is no energy/],
    [text.replace("0.3", "0"), /"f32" = 0, which is no energy above 0/],
    [text.replace(/source.*\n/, ""), /does not say its source/],
    [`${text}dram: 3\n`, /"dram", which it does not know/],
    ["[", /neither JSON nor YAML/],
    ["12", /holds no object/],
  ];
  for (const [text, why] of broken) {
    assert.throws(() => parseEnergyTable(text, "board.yaml"), (error: Error) => {
      assert(error instanceof RequestError);
      assert.match(error.message, why);
      assert.match(error.message, /energy table board\.yaml/);
      return true;
    });
  }
});
