/**
 * The pictures of a model card: what they are drawn of, that any viewer of SVG can show them, that
 * nothing of them runs or comes from elsewhere, and that the card names no file that is not there.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { type AlongDepth, alongDepth } from "../src/report/along_depth.ts";
import { type Picture, picturesOf } from "../src/report/pictures.ts";
import { parseRecord } from "../src/report/record_file.ts";
import type { TensorReport } from "../src/report.ts";
import { modelCard } from "../src/publish/model_card.ts";
import { type FakeHub, startFakeHub, TOKEN } from "./fake_hub/mod.ts";
import { inFolder, sluice } from "./cli/host.ts";
import { sha256 } from "./publish_given.ts";

/** Names of elements, and their attributes, of XML, if it is well-formed (XML 1.0 without DTDs, CDATA and comments). */
function elementsOf(text: string): { readonly name: string; readonly attributes: string[] }[] {
  // deno-lint-ignore no-control-regex -- the pattern is of what XML does not allow
  assert.doesNotMatch(text, /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/);
  assert.ok(text.isWellFormed());
  const open: string[] = [];
  const found: { name: string; attributes: string[] }[] = [];
  const tag = /^<(\/?)([a-zA-Z][\w-]*)((?:\s+[a-zA-Z][\w:-]*="[^"<]*")*)\s*(\/?)>/;
  for (let rest = text.trim(); rest !== "";) {
    const [whole, end, name, attributes, empty] = tag.exec(rest) ?? [];
    if (whole === undefined) {
      const [data] = /^[^<]+/.exec(rest) ?? [];
      assert.ok(data !== undefined, `no tag: ${rest.slice(0, 80)}`);
      assert.doesNotMatch(data, /&(?!(?:#\d+|amp|lt|gt|quot|apos);)|\]\]>/);
      rest = rest.slice(data.length);
      continue;
    }
    const given = [...attributes!.matchAll(/[\w:-]+="[^"]*"/g)].map(([text]) => text);
    const keys = new Set(given.map((text) => text.split("=")[0]));
    assert.equal(keys.size, given.length, `${whole} has an attribute twice`);
    assert.doesNotMatch(attributes!, /&(?!(?:#\d+|amp|lt|gt|quot|apos);)/);
    if (end) assert.equal(open.pop(), name);
    else {
      found.push({ name: name!, attributes: given });
      if (!empty) open.push(name!);
    }
    rest = rest.slice(whole.length);
    if (open.length === 0) assert.equal(rest, "", "one element holds all");
  }
  assert.deepEqual(open, []);
  return found;
}

/** What stands alone: it runs nothing, and wants nothing of a page or of another address. */
function checkAlone({ text }: Picture): void {
  const elements = elementsOf(text);
  const drawn = ["svg", "title", "desc", "style", "g", "rect", "path", "line", "text"];
  assert.deepEqual(elements.filter(({ name }) => !drawn.includes(name)), []);
  const attributes = new Set(elements.flatMap(({ attributes }) => attributes));
  assert.ok(attributes.delete('xmlns="http://www.w3.org/2000/svg"'));
  const reaching = /^on|^style=|href|src|var\(|url\(|:\/\//;
  assert.deepEqual([...attributes].filter((attribute) => reaching.test(attribute)), []);
  const [, style] = /<style>([^<]*)<\/style>/.exec(text)!;
  assert.doesNotMatch(style!, /var\(|url\(|@import|@font-face/);
  assert.match(text, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" [^>]*viewBox="0 0 \d+ \d+"/);
  // A paper of its own, and what turns it dark.
  const [, paper] = /<rect width="\d+" height="\d+" rx="6" fill="(#[0-9a-f]{6})"/.exec(text)!;
  assert.match(
    text,
    new RegExp(`@media\\(prefers-color-scheme:dark\\){.*\\[fill="${paper}"\\]{fill:#[0-9a-f]{6}}`),
  );
}

function draw(along_depth: AlongDepth | null, schemes = ["int4", "int8"]): Promise<Picture[]> {
  return picturesOf({ along_depth, schemes: schemes.map((name) => ({ name, weights: 1 })) });
}

const HOSTILE = [
  "</text><script>alert(1)</script>",
  `"><image href="http://evil.example/x"/>`,
  "]]>&amp;&#0;\u0000\u001b[31m\u202e\uffff\ud800",
  "'onload='x",
  `{{datum.x}} signal: "alert(1)"`,
  "x".repeat(100_000),
  "](javascript:x)![",
];

Deno.test("pictures stand alone, and names of a checkpoint do nothing in them", async () => {
  const layers = [0, 1, 2];
  const kinds = HOSTILE.map((kind, i) => ({
    kind,
    layers,
    bits: [4.25, 8, i + 1],
    output_error: [0.01, 0.02 * (i + 1), null],
    weight_error: [null, null, null],
  }));
  const pictures = await draw({ stream_error: [0.1, null, 0.3], kinds });
  assert.deepEqual(pictures.map(({ path }) => path), [
    "sluice_report/error_by_layer.svg",
    "sluice_report/error_along_depth.svg",
    "sluice_report/bits_by_layer.svg",
  ]);
  for (const picture of pictures) {
    checkAlone(picture);
    assert.ok(picture.text.length < 40_000);
    assert.ok(picture.description.length < 2_000);
  }
  const card = modelCard({ name: "me/made", pictures });
  const images = [
    ...card.matchAll(/(?<!\\)!(?:\[(?:[^\[\]<>\n\\]|\\.)*\]\((sluice_report\/\w+\.svg)\)\n)/g),
  ];
  assert.deepEqual(images.map(([, path]) => path), pictures.map(({ path }) => path));
  assert.doesNotMatch(card, /[^\\]<|\u202e/);
  assert.ok(!card.includes("\u001b"));
});

Deno.test("there is a picture only of what there is something to see of", async () => {
  const kind = { kind: "mlp.up_proj", layers: [0, 1], bits: [4.25, 4.25] };
  const none = [null, null];
  const drawn = async (along: AlongDepth | null) =>
    (await draw(along)).map(({ path }) => path.replace(/^.*\/|\.svg$/g, ""));
  assert.deepEqual(await drawn(null), []);
  const nothing = { ...kind, output_error: none, weight_error: none };
  assert.deepEqual(await drawn({ stream_error: null, kinds: [nothing] }), []);
  assert.deepEqual(await drawn({ stream_error: [0.1], kinds: [] }), []);
  assert.deepEqual(await drawn({ stream_error: [0.1, 0.2], kinds: [] }), ["error_along_depth"]);
  const exact = { ...nothing, weight_error: [0, 0] };
  assert.deepEqual(await drawn({ stream_error: null, kinds: [exact] }), []);
  const mixed = { ...nothing, bits: [4.25, 8] };
  assert.deepEqual(await drawn({ stream_error: null, kinds: [mixed] }), ["bits_by_layer"]);
  // Of one scheme widths differ by shapes alone.
  assert.deepEqual(await draw({ stream_error: null, kinds: [mixed] }, ["nf4"]), []);
});

Deno.test("where most have no error of the output, errors of the weights are drawn, and it says so", async () => {
  const errors = { output_error: [0.5, null], weight_error: [0.001, 0.003] };
  const kinds = [{ kind: "mlp.up_proj", layers: [0, 7], bits: [4, 4], ...errors }];
  const [weights] = await draw({ stream_error: null, kinds });
  assert.equal(weights!.title, "Error of each layer’s weights, relative and squared");
  const said = "mlp.up_proj: from 0.00100 in layer 0 to 0.00300 in layer 7.";
  assert.equal(weights!.description, said);
  assert.ok(weights!.text.includes(`<desc>${said}</desc>`));
  const both = kinds.map((kind) => ({ ...kind, output_error: [0.5, 0.25] }));
  const [output] = await draw({ stream_error: null, kinds: both });
  assert.equal(output!.description, "mlp.up_proj: from 0.250 in layer 7 to 0.500 in layer 0.");
});

Deno.test("alongDepth() has the mean of experts, layers in order, and null for what is no number", () => {
  const weight = (name: string, sqnr_db: number, outputError?: number): TensorReport => ({
    name,
    scheme: "int4",
    bitsPerWeight: 4.251234,
    metrics: { sqnr_db },
    ...(outputError === undefined
      ? {}
      : { calibration: { method: "gptq", tokens: 1, outputError } }),
  });
  const tensors = [
    weight("model.layers.1.mlp.up.weight", -Infinity),
    weight("model.layers.0.mlp.up.weight", 20, 0.123456),
    weight("model.layers.0.mlp.experts.0.w.weight", 10),
    weight("model.layers.0.mlp.experts.1.w.weight", 20),
    weight("lm_head.weight", 30),
  ];
  assert.deepEqual(alongDepth(tensors, undefined), {
    stream_error: null,
    kinds: [
      {
        kind: "mlp.up",
        layers: [0, 1],
        bits: [4.251, 4.251],
        output_error: [0.1235, null],
        weight_error: [0.01, null],
      },
      {
        kind: "mlp.experts.*.w",
        layers: [0],
        bits: [4.251],
        output_error: [null],
        weight_error: [0.055],
      },
    ],
  });
  const unmeasured = tensors.map((tensor) => ({ ...tensor, metrics: {}, calibration: undefined }));
  assert.equal(alongDepth(unmeasured as unknown as TensorReport[], undefined), null);
  const mixed = unmeasured.map((tensor, i) => ({ ...tensor, scheme: `int${i + 2}` }));
  const { kinds } = alongDepth(mixed as unknown as TensorReport[], undefined)!;
  assert.deepEqual(kinds.map(({ bits }) => bits), [[4.251, 4.251], [4.251]]);
});

/** A file that is on the Hub. */
async function read(hub: FakeHub, path: string): Promise<string> {
  const response = await fetch(`${hub.endpoint}/me/made/resolve/main/${path}`, {
    headers: { authorization: `Bearer ${TOKEN}` },
  });
  assert.equal(response.status, 200, path);
  return await response.text();
}

const QUANTIZE = "quantize sample --group-size 64 --device wasm --num-samples 2 --seq-len 64";

for (const way of ["quantize --upload-repo", "publish"]) {
  Deno.test(`the card of ${way} shows the pictures that are published with it, and hashes every file`, () =>
    inFolder(async (folder) => {
      await using hub = await startFakeHub();
      const env: Readonly<Record<string, string>> = {
        HF_ENDPOINT: hub.endpoint,
        HF_TOKEN: TOKEN,
        HF_HOME: folder,
      };
      const onHub = async (words: string[]) => {
        const { code, err } = await sluice(words, { env: (name) => env[name] });
        assert.equal(code, 0, err);
      };
      const quantize = [...QUANTIZE.split(" "), "--evaluate", "--report", `${folder}/report`];
      const upload = way === "publish" ? [] : ["--upload-repo", "me/made", "--yes"];
      await onHub([...quantize, "--output", `${folder}/out`, ...upload]);
      if (way === "publish") {
        await onHub(["publish", `${folder}/out`, "me/made", "--yes", "--device", "wasm"]);
      }
      const card = await read(hub, "README.md");
      const shown = [...card.matchAll(/^!\[(.*)\]\(([^)]*)\)$/gm)];
      const record = parseRecord(readFileSync(`${folder}/out/sluice.json`, "utf8"));
      const pictures = await picturesOf(record);
      assert.deepEqual(shown.map(([, , path]) => path), pictures.map(({ path }) => path));
      assert.deepEqual(shown.map(([, , path]) => path), [
        "sluice_report/error_by_layer.svg",
        "sluice_report/error_along_depth.svg",
      ]);
      const { files } = hub.repo("me/made").head();
      const listed = new Map(
        [...card.matchAll(/^\| `(.+)` \| .* \| `([0-9a-f]{64})` \|$/gm)].map(([, path, hash]) =>
          [path!, hash!] as const
        ),
      );
      const others = [...files.keys()].filter((path) =>
        path !== "README.md" && path !== ".gitattributes"
      );
      assert.deepEqual([...listed.keys()].sort(), others.sort());
      for (const [path, hash] of listed) {
        assert.equal(await files.get(path)!.content.sha256(), hash, path);
      }
      for (const [i, picture] of pictures.entries()) {
        const there = await read(hub, picture.path);
        assert.equal(sha256(there), sha256(picture.text));
        checkAlone(picture);
        assert.match(shown[i]![1]!, /from .* in layer \d|From .* at block/);
      }
      // What was published is published again without a change.
      const commits = () =>
        hub.log.filter(({ method, path }) => method === "POST" && /\/commit\//.test(path)).length;
      const before = commits();
      await onHub(["publish", `${folder}/out`, "me/made", "--yes", "--device", "wasm"]);
      assert.equal(commits(), before);
      assert.deepEqual(hub.violations, []);
    }));
}

Deno.test("a folder with a card of its own is published without pictures", () =>
  inFolder(async (folder) => {
    await using hub = await startFakeHub();
    const env: Readonly<Record<string, string>> = {
      HF_ENDPOINT: hub.endpoint,
      HF_TOKEN: TOKEN,
      HF_HOME: folder,
    };
    const quantize = [...QUANTIZE.split(" "), "--evaluate", "--output", `${folder}/out`];
    const made = await sluice(quantize);
    assert.equal(made.code, 0, made.err);
    await Deno.writeTextFile(`${folder}/out/README.md`, "Mine.");
    const words = ["publish", `${folder}/out`, "me/made", "--yes", "--device", "wasm"];
    const { code, err } = await sluice(words, { env: (name) => env[name] });
    assert.equal(code, 0, err);
    assert.equal(await read(hub, "README.md"), "Mine.");
    const paths = [...hub.repo("me/made").head().files.keys()];
    assert.deepEqual(paths.filter((path) => path.endsWith(".svg")), []);
  }));
