/**
 * The rules of the house that a program can check: layers, lists, file names, sizes, words that do
 * not belong.
 */
import assert from "node:assert/strict";
import { FORMATS } from "../src/formats/mod.ts";
import { METHODS } from "../src/methods/mod.ts";
import { OBSERVERS } from "../src/observers/mod.ts";
import { METRICS } from "../src/metrics/mod.ts";
import { EVALUATORS } from "../src/evaluators/mod.ts";
import { OPS } from "../src/ops/mod.ts";

const ROOT = new URL("../", import.meta.url);

function walk(folder: string): string[] {
  return [...Deno.readDirSync(new URL(folder, ROOT))].flatMap(({ name, isDirectory }) =>
    isDirectory ? walk(`${folder}${name}/`) : [`${folder}${name}`]
  ).sort();
}

const SOURCES = [...walk("src/"), "mod.ts", "cli.ts"];
const TYPESCRIPT = SOURCES.filter((path) => path.endsWith(".ts") && !path.includes("/assembly/"));
const texts = new Map<string, string>();
const read = (path: string) =>
  texts.getOrInsertComputed(path, () => Deno.readTextFileSync(new URL(path, ROOT)));

/** Code without comments: names in examples are no imports. */
function codeOf(path: string): string {
  return read(path).replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
}

function importsOf(path: string): string[] {
  return [...codeOf(path).matchAll(/(?:from |import\()"(\.[^"]+)"/g)].map(([, specifier]) =>
    new URL(specifier!, new URL(path, ROOT)).href.slice(ROOT.href.length)
  ).filter((target) => TYPESCRIPT.includes(target));
}

/** A folder of src with its slash, or a file of the root without its ending. */
function roomOf(path: string): string {
  return path.replace(/^src\//, "").replace(/^([^/]+\/).*$|\.ts$/, "$1");
}

/** From the ground up. A room imports from rooms below it, and from itself. */
const LAYERS: readonly (readonly string[])[] = [
  ["errors", "hash", "limits", "number", "size", "tensor", "thread", "version"],
  // The seams: what a kind of thing is, for those who make one and those who use one.
  [
    "backend",
    "carry",
    "container",
    "evaluator",
    "family",
    "format",
    "json",
    "method",
    "metric",
    "observer",
    "op",
    "option",
    "pace",
    "report",
    "sampling",
    "scheme",
    "sink",
    "source",
    "trace",
    "traffic",
  ],
  ["backends/", "containers/", "families/", "hub/", "io/", "ops/"],
  ["evaluators/", "linalg/", "metrics/", "sinks/", "sources/"],
  ["corpora/", "graph/", "observers/"],
  ["schemes/"],
  ["formats/", "methods/"],
  ["recipe", "recipe_file"],
  ["plan/"],
  ["forward/"],
  ["calibration/"],
  ["report/", "verify/"],
  ["advice/", "bits/", "curves/", "granularity/", "run/"],
  // The verbs.
  [
    "advise",
    "bits",
    "certificate",
    "curves",
    "evaluate",
    "granularity",
    "guarantee",
    "inspect",
    "open",
    "outputs",
    "plan",
    "run",
    "verify",
    "windows",
  ],
  ["publish/"],
  ["meeting/", "publish"],
  ["mod", "terminal/"],
  ["cli"],
];

const layerOf = (path: string) => LAYERS.findIndex((layer) => layer.includes(roomOf(path)));

/** The house as text: each layer's rooms with their files and lines. */
function drawing(): string {
  const lines = (path: string) => read(path).split("\n").length - 1;
  const rows = LAYERS.toReversed().map((layer) =>
    layer.map((room) => {
      const files = TYPESCRIPT.filter((path) => roomOf(path) === room);
      const sum = files.reduce((total, path) => total + lines(path), 0);
      return room.endsWith("/") ? `${room} (${files.length} files, ${sum} lines)` : room;
    }).join(" · ")
  );
  const sizes = TYPESCRIPT.map((path) => [lines(path), path] as const).sort(([a], [b]) => b - a);
  const [median] = sizes[Math.floor(sizes.length / 2)]!;
  const large = sizes.filter(([count]) => count > 300).map(([count, path]) => `${path} ${count}`);
  return [
    ...rows,
    `${sizes.length} files, median ${median} lines; over 300: ${large.join(", ") || "none"}`,
  ].join("\n");
}

Deno.test("every file of src is in a room of the house, and every room has files", () => {
  assert.deepEqual(TYPESCRIPT.filter((path) => layerOf(path) < 0), []);
  const rooms = new Set(TYPESCRIPT.map(roomOf));
  assert.deepEqual(LAYERS.flat().filter((room) => !rooms.has(room)), []);
  // deno-lint-ignore no-console -- the drawing is for whoever runs the test
  console.log(drawing());
});

Deno.test("a file imports from the layers below it and from its own room, and seams from each other", () => {
  const wrong = TYPESCRIPT.flatMap((path) =>
    importsOf(path).filter((target) => {
      const [own, other] = [layerOf(path), layerOf(target)];
      if (roomOf(path) === roomOf(target) || other < own) return false;
      // Files of the root in one layer may know each other; folders may not.
      return other > own || /\/$/.test(roomOf(path) + roomOf(target));
    }).map((target) => `${path} imports ${target}`)
  );
  assert.deepEqual(wrong, []);
});

Deno.test("no file imports itself by way of others", () => {
  const state = new Map<string, "open" | "done">();
  const circles: string[] = [];
  const visit = (path: string, way: readonly string[]): void => {
    if (state.get(path) === "open") {
      circles.push([...way.slice(way.indexOf(path)), path].join(" → "));
    }
    if (state.has(path)) return;
    state.set(path, "open");
    for (const target of importsOf(path)) visit(target, [...way, path]);
    state.set(path, "done");
  };
  for (const path of TYPESCRIPT) visit(path, []);
  assert.deepEqual(circles, []);
});

Deno.test("lines have at most 100 columns, but for texts that cannot be broken", () => {
  const paths = [...SOURCES, ...walk("shaders/")].filter((path) => /\.(ts|wgsl)$/.test(path));
  const wrong = paths.flatMap((path) =>
    read(path).split("\n").flatMap((line, i) =>
      [...line].length > 100 && !/["'`]|\$\{|<\/?\w|\/i?;$/.test(line) ? [`${path}:${i + 1}`] : []
    )
  );
  assert.deepEqual(wrong, []);
});

/** Shaders that others are joined to; no ops. */
const FRAGMENTS = [
  "activation",
  "attention_scores",
  "attention_tiles",
  "attention_vectors",
  "codebook",
  "gemm_vectors",
  "matmul_nt_vectors",
  "matmul_packed_vectors",
  "matmul_tile",
  "matmul_unrolled",
  "matmul_x_y",
  "nearest",
  "prelude",
  "runtime_level",
  "soft_cap",
  "stored_f32",
  "stored_half",
  "tile",
];

Deno.test("every op is listed once, has its shader and its file", () => {
  const names = OPS.map(({ name }) => name).sort();
  const files = (folder: string, ends: string) =>
    walk(folder).filter((path) => path.endsWith(ends)).map((path) =>
      path.slice(folder.length, -ends.length)
    );
  assert.deepEqual(files("shaders/", ".wgsl").filter((name) => !FRAGMENTS.includes(name)), names);
  assert.equal(new Set(names).size, names.length);
  const missing = names.filter((name) => !files("src/ops/", ".ts").includes(name));
  assert.deepEqual(missing, []);
});

Deno.test("every observer is listed once, and has its file", () => {
  const files = walk("src/observers/").map((path) => path.slice("src/observers/".length, -3));
  assert.deepEqual(
    OBSERVERS.map(({ name }) => name).sort(),
    files.filter((name) => name !== "mod"),
  );
});

Deno.test("lists of methods, formats, metrics, evaluators and observers have no name twice", () => {
  for (const list of [METHODS, FORMATS, METRICS, EVALUATORS, OBSERVERS]) {
    const names = list.map(({ name }: { name: string }) => name);
    assert.equal(new Set(names).size, names.length, names.join());
  }
});

Deno.test("file names are snake_case and say what is inside", () => {
  const banned = /\/(utils|types|index|helpers|common|misc)\.ts$/;
  const wrong = [...SOURCES, ...walk("shaders/")].filter((path) => {
    const name = path.slice(path.lastIndexOf("/") + 1);
    if (path.includes("/assembly/")) return false; // The compiler wants an entry file called index.ts.
    return banned.test(path) || !/^[a-z0-9_]+(\.d)?\.(ts|js|css|wgsl|wasm|md)$/i.test(name);
  });
  assert.deepEqual(wrong, []);
});

Deno.test("every source file begins by saying what it is for", () => {
  const wrong = TYPESCRIPT.filter((path) => !/^(\/\*\*|\/\/)/.test(read(path)));
  assert.deepEqual(wrong, []);
});

Deno.test("the library neither prints nor exits nor reads the environment", () => {
  const words =
    /\bconsole\.|Deno\.(env|exit|stdout|stderr|stdin)\b|@ts-ignore|@ts-nocheck|\bas any\b|: any\b/;
  const wrong = TYPESCRIPT.filter((path) => path !== "cli.ts" && words.test(read(path)));
  assert.deepEqual(wrong, []);
});

Deno.test("the library names options, not flags: its callers have no command line", () => {
  // Of other programs: a compiler's, vLLM's; `--allow-…` is Deno's.
  const others = /^src\/backends\/wasm\/build\.ts$|^src\/formats\/gptq\/loaders\.ts$/;
  const wrong = TYPESCRIPT.filter((path) =>
    path.startsWith("src/") && roomOf(path) !== "terminal/" && !others.test(path)
  ).flatMap((path) => {
    const code = read(path).replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
    return [...code.matchAll(/(?<![\w(])--(?!allow-)[a-z][a-z-]+/g)].map(([flag]) =>
      `${path}: ${flag}`
    );
  });
  assert.deepEqual(wrong, []);
});

Deno.test("no path of a developer's machine and no registry host stands in the tree", () => {
  const words = new RegExp(
    ["/work/", "/root/", "registry\\.npmjs", "pypi\\.org", "deb\\.debian"].join("|"),
  );
  const text = /\.(ts|js|wgsl|md|py|sh|json|yaml)$/;
  const paths = [
    ...SOURCES,
    ...walk("tests/"),
    ...walk("shaders/"),
    ...walk("sample/make/"),
    "README.md",
    "deno.json",
    ".ci/run",
  ];
  const wrong = paths.filter((path) =>
    path !== "tests/structure_test.ts" && (text.test(path) || path === ".ci/run")
  )
    .filter((path) => !path.startsWith("tests/bench/out/") && words.test(read(path)));
  assert.deepEqual(wrong, []);
});
