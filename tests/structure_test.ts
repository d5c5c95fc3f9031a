/** The rules of the house that a program can check: layers, lists, file names, sizes, words that do not belong. */
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
const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

function importsOf(path: string): string[] {
  const text = read(path).replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, "");
  return [...text.matchAll(/from "(\.[^"]+)"/g)].map(([, specifier]) =>
    new URL(specifier!, new URL(path, ROOT)).href.slice(ROOT.href.length)
  );
}

function folderOf(path: string): string {
  return /^src\/([^/]+)\//.exec(path)?.[1] ?? "";
}

/** What a folder may import beside itself and the root's files. */
const ALLOWED: Readonly<Record<string, readonly string[]>> = {
  methods: ["ops", "schemes", "observers"],
  schemes: ["ops", "observers"],
  families: ["ops"],
  formats: ["ops", "schemes"],
  observers: ["ops"],
  metrics: ["ops"],
  evaluators: ["ops"],
  sources: ["io", "hub", "containers"],
  sinks: ["io", "hub", "containers"],
  corpora: ["hub", "io"],
  publish: ["hub", "io", "sources"],
  report_page: ["metrics"],
};

Deno.test("a folder of src imports only the neighbours that the design allows it", () => {
  const wrong = TYPESCRIPT.filter((path) => folderOf(path) !== "" && folderOf(path) !== "terminal")
    .flatMap((path) => {
      const own = folderOf(path);
      return importsOf(path).filter((target) => {
        const other = folderOf(target);
        return other !== "" && other !== own && !(ALLOWED[own] ?? []).includes(other);
      }).map((target) => `${path} imports ${target}`);
    });
  assert.deepEqual(wrong, []);
});

Deno.test("nothing in src imports mod.ts or cli.ts", () => {
  const wrong = TYPESCRIPT.filter((path) =>
    path.startsWith("src/") && !path.startsWith("src/terminal/")
  )
    .filter((path) => importsOf(path).some((target) => target === "mod.ts" || target === "cli.ts"));
  assert.deepEqual(wrong, []);
});

/** Shaders that others are joined to; no ops. */
const FRAGMENTS = ["codebook", "matmul_tile", "nearest", "prelude", "runtime_level", "tile"];

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
    path.startsWith("src/") && folderOf(path) !== "terminal" && !others.test(path)
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
