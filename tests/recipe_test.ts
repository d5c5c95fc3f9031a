/** Recipes: from flags, JSON and YAML; patterns; refusals. */
import assert from "node:assert/strict";
import { matches, recipeFromOptions } from "../src/recipe.ts";
import { parseRecipe } from "../src/recipe_file.ts";

Deno.test("recipeFromOptions() makes one rule for every linear weight", () => {
  const recipe = recipeFromOptions({ scheme: "w4a16", "group-size": "64", scale: "mse" }, [
    "lm_head",
  ]);
  assert.deepEqual(recipe, {
    rules: [{ scheme: "W4A16", method: "auto", options: { "group-size": 64, scale: "mse" } }],
    ignore: ["lm_head"],
    maxShardSize: 5e9,
    calibrateOn: "quantized",
    propagate: true,
    calibrationShards: 1,
  });
});

Deno.test("methods are a list, joined by + or as YAML has lists; scaling alone is followed by rounding to nearest", () => {
  const method = (text: string) => parseRecipe(text, "a.yaml").rules[0]!.method;
  assert.equal(method("method: AWQ+gptq"), "awq+gptq");
  assert.equal(method("method: [awq, gptq]"), "awq+gptq");
  assert.equal(method("method: awq"), "awq+rtn");
  assert.equal(recipeFromOptions({ method: "gptq" }).rules[0]!.method, "gptq");
});

Deno.test("calibration on the original model leaves no errors to propagate", () => {
  assert.equal(recipeFromOptions({ "calibrate-on": "float" }).propagate, false);
  assert.equal(recipeFromOptions({ propagate: "false" }).propagate, false);
});

Deno.test("parseRecipe() reads YAML and JSON alike, rules first and the top level last", () => {
  const yaml = `
version: 1
scheme: W4A16
group_size: 64
format: compressed-tensors
max_shard_size: 100MB
ignore: ["re:.*layers\\\\.0\\\\."]
rules:
  - match: "*.down_proj"
    scheme: W8A16
  - match: "re:.*o_proj$"
    scheme: none
`;
  const json = JSON.stringify({
    version: 1,
    scheme: "W4A16",
    group_size: 64,
    format: "compressed-tensors",
    max_shard_size: "100MB",
    ignore: ["re:.*layers\\.0\\."],
    rules: [{ match: "*.down_proj", scheme: "W8A16" }, { match: "re:.*o_proj$", scheme: "none" }],
  });
  const recipe = parseRecipe(yaml, "a.yaml");
  assert.deepEqual(recipe, parseRecipe(json, "a.json"));
  assert.deepEqual(recipe.rules.map(({ match, scheme }) => [match, scheme]), [
    ["*.down_proj", "W8A16"],
    ["re:.*o_proj$", "none"],
    [undefined, "W4A16"],
  ]);
  assert.equal(recipe.maxShardSize, 100e6);
});

Deno.test("a pattern matches the tensor's name or its module path, a regular expression from the start", () => {
  const name = "model.layers.10.self_attn.q_proj.weight";
  assert(matches("model.layers.10.self_attn.q_proj", name));
  assert(matches("*.q_proj", name));
  assert(matches("re:.*\\.(q|k)_proj$", name));
  assert(!matches("re:layers", name));
  assert(!matches("model.layers.1.*", name));
  assert(!matches("q_proj", name));
});

const refusals: readonly (readonly [what: string, act: () => unknown, sentence: RegExp])[] = [
  ["an unknown scheme", () => recipeFromOptions({ scheme: "W9A16" }), /"W9A16".*one of W4A16/],
  [
    "an unknown method",
    () => recipeFromOptions({ method: "magic" }),
    /method "magic".*names are rtn, hqq, gptq/,
  ],
  [
    "a method after one that chooses codes",
    () => recipeFromOptions({ method: "gptq+rtn" }),
    /gptq chooses codes, so nothing can follow it/,
  ],
  ["a method twice", () => recipeFromOptions({ method: "awq+awq+gptq" }), /names a method twice/],
  [
    "errors to propagate on the original model",
    () => recipeFromOptions({ propagate: "true", "calibrate-on": "float" }),
    /no errors to repair/,
  ],
  [
    "a group size that is no number",
    () => recipeFromOptions({ "group-size": "many" }),
    /`group-size` "many".*whole number/,
  ],
  [
    "a shard size without a number",
    () => recipeFromOptions({ "max-shard-size": "big" }),
    /`max-shard-size` "big".*500MB/,
  ],
  ["a broken pattern", () => recipeFromOptions({}, ["re:("]), /pattern "re:\("/],
  [
    "text that is no YAML",
    () => parseRecipe("a: [", "x.yaml"),
    /x\.yaml: it is neither JSON nor YAML/,
  ],
  ["a list", () => parseRecipe("[]", "x.yaml"), /must be an object/],
  ["an unknown key", () => parseRecipe("schema: W4A16", "x.yaml"), /no key "schema"/],
  [
    "a rule without match",
    () => parseRecipe("rules: [{scheme: W8A16}]", "x.yaml"),
    /rule 1 .*needs "match"/,
  ],
  [
    "an unknown scheme",
    () => parseRecipe("scheme: NFF4", "x.yaml"),
    /^Cannot read the recipe x\.yaml\. Cannot use scheme "NFF4": /,
  ],
  [
    "several outputs where one is read",
    () => parseRecipe("outputs: [{ scheme: NF4 }]", "x.yaml"),
    /x\.yaml here: it asks for several outputs \("outputs"\), where only one can be made\./,
  ],
  ["another version", () => parseRecipe("version: 2", "x.yaml"), /version is 2/],
  [
    "a wrong value",
    () => parseRecipe("group_size: 1.5", "x.yaml"),
    /"group_size: 1\.5" in the recipe x\.yaml: it must be a whole number/,
  ],
];
for (const [what, act, sentence] of refusals) {
  Deno.test(`a recipe with ${what} is refused with a sentence`, () => {
    assert.throws(
      act,
      (error: Error) => error.name === "RequestError" && sentence.test(error.message),
    );
  });
}

Deno.test("alpha is a number or the word search, in recipes as on the command line", () => {
  const alpha = (text: string) => parseRecipe(text, "a.yaml").rules[0]!.options.alpha;
  assert.equal(alpha("method: smoothquant\nalpha: 0.75"), 0.75);
  assert.equal(alpha("method: smoothquant\nalpha: search"), "search");
  assert.equal(recipeFromOptions({ alpha: "0.5" }).rules[0]!.options.alpha, 0.5);
  for (const wrong of ["alpha: 1.5", "alpha: find", "alpha: true"]) {
    assert.throws(() => alpha(wrong), /it must be search, or a number/, wrong);
  }
});
