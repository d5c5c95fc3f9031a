/**
 * The fake Hub does what it says: addresses, refusals, uploads, every fault. With plain fetch, and
 * with the Hub's own client for JavaScript.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import {
  commitIter,
  type CommitOutput,
  type CommitProgressEvent,
  createRepo,
  fileDownloadInfo,
  listFiles,
  modelInfo,
  whoAmI,
} from "@huggingface/hub";
import { headerLength, parseHeader } from "../src/containers/safetensors.ts";
import {
  changedJson,
  expiredUrl,
  type FakeHub,
  type FakeHubOptions,
  type Fault,
  type FaultMatch,
  type FileInput,
  rateLimited,
  READ_TOKEN,
  startFakeHub,
  STRANGER_TOKEN,
  syntheticCheckpoint,
  type SyntheticFile,
  TOKEN,
} from "./fake_hub/mod.ts";
import { heldBytes } from "./memory.ts";

/** Every byte tells where it is. */
const WEIGHTS = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7) % 251);
const MODEL = "/org/m/resolve/main/model.safetensors";

async function startSmall(options: FakeHubOptions = {}): Promise<FakeHub> {
  return await startFakeHub({
    repos: {
      "org/m": {
        "config.json": "{}",
        "sub/deep/a.txt": "a",
        "model.safetensors": WEIGHTS,
        "README.md": "---\nlicense: mit\nbase_model: x/y\n---\nA card.\n",
      },
    },
    ...options,
  });
}

interface Got {
  readonly status: number;
  readonly headers: Headers;
  readonly bytes: Uint8Array;
  readonly text: string;
}

async function get(hub: FakeHub, path: string, init: RequestInit = {}): Promise<Got> {
  const response = await fetch(path.startsWith("http") ? path : hub.endpoint + path, init);
  const bytes = await response.bytes();
  const text = new TextDecoder().decode(bytes);
  return { status: response.status, headers: response.headers, bytes, text };
}

/** A part of the weights, in one request of the range. */
function range(begin: number, end: number): RequestInit {
  return { headers: { Range: `bytes=${begin}-${end - 1}`, "Accept-Encoding": "identity" } };
}

function bearer(token: string): RequestInit {
  return { headers: { Authorization: `Bearer ${token}` } };
}

function post(body: unknown, token = TOKEN): RequestInit {
  return {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

Deno.test("a large file is redirected to the other origin, with its hash, size and commit", async () => {
  await using hub = await startSmall();
  const { status, headers } = await get(hub, MODEL, { redirect: "manual" });
  assert.equal(status, 302);
  assert.equal(headers.get("X-Linked-Etag"), `"${sha256(WEIGHTS)}"`);
  assert.equal(headers.get("X-Linked-Size"), "100000");
  assert.equal(headers.get("X-Repo-Commit"), hub.repo("org/m").head().sha);
  const place = new URL(headers.get("Location")!);
  assert.equal(place.origin, hub.storage);
  assert.notEqual(place.hostname, new URL(hub.endpoint).hostname);
  assert.deepEqual((await get(hub, place.href)).bytes, WEIGHTS);
});

Deno.test("ranges are answered with exactly their bytes, and past the end with 416", async () => {
  await using hub = await startSmall();
  const { status, headers, bytes } = await get(hub, MODEL, range(10, 20));
  assert.equal(status, 206);
  assert.equal(headers.get("Content-Range"), "bytes 10-19/100000");
  assert.deepEqual(bytes, WEIGHTS.subarray(10, 20));
  const last = await get(hub, MODEL, { headers: { Range: "bytes=-5" } });
  assert.deepEqual(last.bytes, WEIGHTS.subarray(-5));
  const beyond = await get(hub, MODEL, { headers: { Range: "bytes=100000-" } });
  assert.equal(beyond.status, 416);
  assert.equal(beyond.headers.get("Content-Range"), "bytes */100000");
});

Deno.test("a small file comes by way of the Hub's own cache, whose address keeps its query", async () => {
  await using hub = await startSmall();
  const first = await get(hub, "/org/m/resolve/main/config.json", { redirect: "manual" });
  assert.equal(first.status, 307);
  const place = first.headers.get("Location")!;
  assert.match(place, /^\/api\/resolve-cache\/models\/org\/m\/[0-9a-f]{40}\/config\.json\?etag=/);
  assert.equal((await get(hub, place)).text, "{}");
  assert.equal((await get(hub, place.split("?")[0]!)).status, 400);
});

Deno.test("a tree comes in pages whose links are absolute, with large files' hashes", async () => {
  await using hub = await startSmall({ pageSize: 2 });
  const paths: string[] = [], requests: string[] = [];
  let url: string | undefined = `${hub.endpoint}/api/models/org/m/tree/main?recursive=true`;
  while (url) {
    requests.push(url);
    const { text, headers } = await get(hub, url);
    const entries = JSON.parse(text) as { path: string; lfs?: { oid: string; size: number } }[];
    paths.push(...entries.map(({ path }) => path));
    const weights = entries.find(({ path }) => path === "model.safetensors");
    if (weights) assert.equal(weights.lfs?.oid, sha256(WEIGHTS));
    url = /^<(http[^>]+)>; rel="next"$/.exec(headers.get("Link") ?? "")?.[1];
  }
  assert.equal(requests.length, 3);
  assert.deepEqual(
    paths.sort(),
    ["README.md", "config.json", "model.safetensors", "sub", "sub/deep", "sub/deep/a.txt"],
  );
});

Deno.test("information pins a branch to a commit and knows the card", async () => {
  await using hub = await startSmall();
  const { sha, cardData, siblings, tags } = JSON.parse(
    (await get(hub, "/api/models/org/m/revision/main?blobs=true")).text,
  );
  assert.equal(sha, hub.repo("org/m").head().sha);
  assert.deepEqual(cardData, { license: "mit", base_model: "x/y" });
  assert.deepEqual(tags, ["license:mit", "base_model:x/y"]);
  assert.ok(
    siblings.some(({ rfilename, lfs }: { rfilename: string; lfs?: { sha256: string } }) =>
      rfilename === "model.safetensors" && lfs?.sha256 === sha256(WEIGHTS)
    ),
  );
  const some = JSON.parse((await get(hub, "/api/models/org/m?expand[]=sha")).text);
  assert.deepEqual(Object.keys(some).sort(), ["_id", "id", "sha"]);
});

Deno.test("revisions are branches, commits and pull requests, their slashes encoded or not", async () => {
  await using hub = await startSmall();
  const repo = hub.repo("org/m");
  const old = repo.head().sha;
  repo.commit({ files: { "config.json": `{"new":1}` } });
  const number = repo.openPullRequest("main");
  repo.commit({ files: { "config.json": `{"pr":1}` }, branch: `refs/pr/${number}` });
  for (
    const [revision, text] of [
      [old, "{}"],
      ["main", `{"new":1}`],
      ["refs/pr/1", `{"pr":1}`],
      ["refs%2Fpr%2F1", `{"pr":1}`],
    ] as const
  ) {
    assert.equal((await get(hub, `/org/m/resolve/${revision}/config.json`)).text, text);
    assert.equal((await get(hub, `/api/models/org/m/tree/${revision}`)).status, 200);
  }
  const refs = JSON.parse((await get(hub, "/api/models/org/m/refs?include_prs=1")).text);
  assert.equal(refs.pullRequests[0].ref, "refs/pr/1");
  const commits = JSON.parse((await get(hub, "/api/models/org/m/commits/main")).text);
  assert.deepEqual(commits.map(({ id }: { id: string }) => id), [repo.head().sha, old]);
});

Deno.test("datasets have addresses of their own", async () => {
  await using hub = await startFakeHub({ repos: { "datasets/org/d": { "a.jsonl": "{}\n" } } });
  assert.equal((await get(hub, "/datasets/org/d/resolve/main/a.jsonl")).text, "{}\n");
  assert.equal(JSON.parse((await get(hub, "/api/datasets/org/d")).text).id, "org/d");
  assert.equal((await get(hub, "/api/models/org/d")).status, 401);
});

Deno.test("paths-info leaves out what is missing, asked in JSON or by a form", async () => {
  await using hub = await startSmall();
  const paths = ["config.json", "nope", "sub"];
  const form = new URLSearchParams(paths.map((path) => ["paths", path]));
  for (const init of [post({ paths }), { method: "POST", body: form }]) {
    const { text } = await get(hub, "/api/models/org/m/paths-info/main", init);
    const found = JSON.parse(text) as { path: string }[];
    assert.deepEqual(found.map(({ path }) => path), ["config.json", "sub"]);
  }
});

Deno.test("refusals have the Hub's statuses and codes", async () => {
  await using hub = await startFakeHub({
    repos: {
      "org/open": { "a.txt": "a" },
      "org/private": { files: { "a.txt": "a" }, private: true },
      "org/gated": { files: { "a.txt": "a" }, gated: "manual" },
      "org/shut": { files: {}, disabled: true },
    },
  });
  const file = "resolve/main/a.txt";
  for (
    const [path, token, status, code] of [
      ["/org/open/resolve/main/b.txt", undefined, 404, "EntryNotFound"],
      ["/api/models/org/open/tree/nope", undefined, 404, "RevisionNotFound"],
      ["/api/models/org/none", undefined, 401, "RepoNotFound"],
      ["/api/models/org/none", TOKEN, 404, "RepoNotFound"],
      ["/api/models/org/private", undefined, 401, "RepoNotFound"],
      ["/api/models/org/private", STRANGER_TOKEN, 404, "RepoNotFound"],
      ["/api/models/org/private", READ_TOKEN, 200, null],
      [`/org/private/${file}`, TOKEN, 200, null],
      ["/api/models/org/gated", undefined, 200, null],
      [`/org/gated/${file}`, undefined, 401, "GatedRepo"],
      [`/org/gated/${file}`, STRANGER_TOKEN, 403, "GatedRepo"],
      [`/org/gated/${file}`, TOKEN, 200, null],
      ["/api/models/org/shut", TOKEN, 403, null],
      ["/api/models/org/open", "hf_wrong", 401, null],
      ["/api/whoami-v2", undefined, 401, null],
    ] as const
  ) {
    const answer = await get(hub, path, token === undefined ? {} : bearer(token));
    assert.deepEqual([path, token, answer.status], [path, token, status]);
    assert.equal(answer.headers.get("X-Error-Code"), code);
  }
  const { headers } = await get(hub, "/api/models/org/open", bearer("hf_wrong"));
  assert.equal(headers.get("X-Error-Message"), "Invalid credentials in Authorization header");
});

Deno.test("an old name redirects, for reading and for writing", async () => {
  await using hub = await startFakeHub({
    repos: { "org/m": { "a.txt": "a" }, "old": { renamedTo: "org/m" } },
  });
  hub.rename("org/m", "org/new");
  const { status, headers } = await get(hub, "/api/models/org/m?blobs=true", {
    redirect: "manual",
  });
  assert.equal(status, 307);
  assert.equal(headers.get("Location"), "/api/models/org/new?blobs=true");
  assert.equal((await get(hub, "/org/m/resolve/main/a.txt")).text, "a");
  assert.equal((await get(hub, "/old/resolve/main/a.txt")).text, "a");
});

Deno.test("the storage refuses a token and writes it down", async () => {
  await using hub = await startSmall();
  const { headers } = await get(hub, MODEL, { redirect: "manual" });
  const { status } = await get(hub, headers.get("Location")!, bearer(TOKEN));
  assert.equal(status, 400);
  assert.equal(hub.violations.length, 1);
  assert.ok(!JSON.stringify([hub.log, hub.violations]).includes(TOKEN));
  assert.equal(hub.log.at(-1)!.authorization, true);
});

Deno.test("an address of the storage is good until it is too old", async () => {
  await using hub = await startSmall();
  const { headers } = await get(hub, MODEL, { redirect: "manual" });
  const place = headers.get("Location")!;
  assert.equal((await get(hub, place)).status, 200);
  assert.equal((await get(hub, place.replace(/Signature=./, "Signature=x"))).status, 403);
  hub.expireUrls();
  assert.equal((await get(hub, place)).status, 403);
  assert.equal((await get(hub, MODEL)).status, 200);
});

/** What a request for 1000 bytes of the weights from 500 ends in, with a fault. */
async function faulty(spec: Fault & FaultMatch, init = range(500, 1500)) {
  await using hub = await startSmall();
  const active = hub.faults.add({ on: "storage", ...spec });
  let answer: Got | undefined, error: unknown;
  try {
    answer = await get(hub, MODEL, { signal: AbortSignal.timeout(500), ...init });
  } catch (thrown) {
    error = thrown;
  }
  assert.equal(active.hits, 1, "the fault did not hit");
  const entry = hub.log.at(-1)!;
  assert.equal(entry.fault, spec.kind);
  // The next request is answered as it should be.
  assert.deepEqual((await get(hub, MODEL, range(500, 1500))).bytes, WEIGHTS.subarray(500, 1500));
  return { answer, error, entry };
}

/** Bytes that arrive before a body ends or breaks. */
async function received(spec: Fault & FaultMatch, ms = 300) {
  await using hub = await startSmall();
  hub.faults.add({ on: "storage", ...spec });
  const response = await fetch(hub.endpoint + MODEL, {
    ...range(500, 1500),
    signal: AbortSignal.timeout(ms),
  });
  const bytes: number[] = [];
  let failed: unknown;
  try {
    for await (const part of response.body!) bytes.push(...part);
  } catch (error) {
    failed = error;
  }
  return { bytes, failed };
}

Deno.test("fault status: an error a number of times, then the file", async () => {
  await using hub = await startSmall();
  hub.faults.add({
    kind: "status",
    status: 503,
    headers: { "Retry-After": "0" },
    times: 3,
    skip: 1,
  });
  const statuses: number[] = [];
  for (let i = 0; i < 6; i++) statuses.push((await get(hub, "/api/models/org/m")).status);
  assert.deepEqual(statuses, [200, 503, 503, 503, 200, 200]);
});

Deno.test("fault rateLimited: 429 with the seconds, a date, the Hub's header, or nothing", async () => {
  const date = new Date(Date.UTC(2030, 0, 1));
  for (
    const [fault, retry, limit] of [
      [rateLimited({ retryAfter: 3 }), "3", null],
      [rateLimited({ retryAfter: date }), "Tue, 01 Jan 2030 00:00:00 GMT", null],
      [rateLimited({ resetSeconds: 7 }), null, `"resolvers";r=0;t=7`],
      [rateLimited(), null, null],
    ] as const
  ) {
    const { answer } = await faulty(fault);
    assert.equal(answer!.status, 429);
    assert.equal(answer!.headers.get("Retry-After"), retry);
    assert.equal(answer!.headers.get("RateLimit"), limit);
  }
});

Deno.test("limits are counted, told on every answer and enforced", async () => {
  await using hub = await startSmall({ limits: { api: 2 } });
  const first = await get(hub, "/api/models/org/m");
  assert.match(first.headers.get("RateLimit")!, /^"api";r=1;t=\d+$/);
  assert.equal((await get(hub, "/api/models/org/m")).status, 200);
  assert.equal((await get(hub, "/api/models/org/m")).status, 429);
  assert.equal((await get(hub, MODEL)).status, 200);
});

Deno.test("fault expiredUrl: the storage says 403 in XML, once", async () => {
  const { answer } = await faulty(expiredUrl());
  assert.equal(answer!.status, 403);
  assert.match(answer!.text, /<Code>AccessDenied/);
});

Deno.test("fault html: a page with status 200 instead of the file", async () => {
  const { answer } = await faulty({ kind: "html" });
  assert.equal(answer!.status, 200);
  assert.match(answer!.text, /^<!DOCTYPE html>/);
});

Deno.test("fault cut: exactly the bytes before the offset, then an end or a reset", async () => {
  for (const how of ["close", "reset"] as const) {
    for (const at of [500, 501, 1234, 1499]) {
      const { bytes, failed } = await received({ kind: "cut", at, how });
      assert.ok(failed, `${how} at ${at} was not noticed`);
      assert.deepEqual(bytes, [...WEIGHTS.subarray(500, at)]);
    }
  }
});

Deno.test("fault cut hits only requests whose range holds the offset", async () => {
  await using hub = await startSmall();
  const fault = hub.faults.add({ kind: "cut", on: "storage", at: 5000, how: "close" });
  assert.equal((await get(hub, MODEL, range(0, 5000))).bytes.length, 5000);
  assert.equal(fault.hits, 0);
  await assert.rejects(get(hub, MODEL, range(4000, 5001)));
  assert.equal(fault.hits, 1);
});

Deno.test("fault cut with a stall: the bytes come, and then nothing", async () => {
  const { bytes, failed } = await received({ kind: "cut", at: 700, how: "stall" });
  assert.deepEqual(bytes, [...WEIGHTS.subarray(500, 700)]);
  assert.equal((failed as Error).name, "TimeoutError");
});

Deno.test("fault short: fewer bytes, and the framing says that this is all", async () => {
  for (const framing of ["length", "chunked", "close"] as const) {
    const { answer, error } = await faulty({ kind: "short", by: 300, framing });
    assert.equal(error, undefined);
    assert.equal(answer!.headers.get("Content-Range"), "bytes 500-1499/100000");
    assert.deepEqual(answer!.bytes, WEIGHTS.subarray(500, 1200));
  }
});

Deno.test("fault long: more bytes than were asked for", async () => {
  for (const framing of ["length", "chunked", "close"] as const) {
    const { answer } = await faulty({ kind: "long", by: 300, framing });
    assert.deepEqual(answer!.bytes.subarray(0, 1000), WEIGHTS.subarray(500, 1500));
    assert.equal(answer!.bytes.length, 1300);
  }
});

Deno.test("fault length: Content-Length is wrong, in both directions", async () => {
  const { error } = await faulty({ kind: "length", by: 10 });
  assert.ok(error);
  const { answer } = await faulty({ kind: "length", by: -10 });
  assert.equal(answer!.bytes.length, 990);
});

Deno.test("fault reset: no answer at all", async () => {
  const { error, entry } = await faulty({ kind: "reset" });
  assert.ok(error instanceof TypeError);
  assert.equal(entry.status, 0);
});

Deno.test("fault ignore_range: the whole file, with 200", async () => {
  const { answer } = await faulty({ kind: "ignore_range" });
  assert.equal(answer!.status, 200);
  assert.equal(answer!.headers.get("Content-Range"), null);
  assert.deepEqual(answer!.bytes, WEIGHTS);
});

Deno.test("fault content_range: another one, or none", async () => {
  const { answer } = await faulty({ kind: "content_range", value: "bytes 0-999/100000" });
  assert.equal(answer!.headers.get("Content-Range"), "bytes 0-999/100000");
  const without = await faulty({ kind: "content_range", value: undefined });
  assert.equal(without.answer!.headers.get("Content-Range"), null);
  assert.equal(without.answer!.status, 206);
});

Deno.test("fault corrupt: one byte of the file differs", async () => {
  const { answer } = await faulty({ kind: "corrupt", at: 777, xor: 4 });
  const expected = WEIGHTS.slice(500, 1500);
  expected[277]! ^= 4;
  assert.deepEqual(answer!.bytes, expected);
});

Deno.test("fault gzip: packed although identity was asked for", async () => {
  const { answer } = await faulty({ kind: "gzip" });
  assert.equal(answer!.headers.get("Content-Encoding"), "gzip");
  assert.deepEqual([...answer!.bytes.subarray(0, 2)], [0x1f, 0x8b]);
});

Deno.test("fault multipart: byteranges for one range", async () => {
  const { answer } = await faulty({ kind: "multipart" });
  assert.match(answer!.headers.get("Content-Type")!, /^multipart\/byteranges/);
  assert.match(answer!.text, /Content-Range: bytes 500-1499\/100000/);
});

Deno.test("fault dribble: the same bytes, a few at a time", async () => {
  const { answer } = await faulty({ kind: "dribble", size: 7 });
  assert.deepEqual(answer!.bytes, WEIGHTS.subarray(500, 1500));
});

Deno.test("fault delay: the answer is late", async () => {
  const began = performance.now();
  const { answer } = await faulty({ kind: "delay", ms: 120 });
  assert.deepEqual(answer!.bytes, WEIGHTS.subarray(500, 1500));
  assert.ok(performance.now() - began >= 119);
});

Deno.test("fault redirect: to a place, to itself, further and further, or to nowhere", async () => {
  await using hub = await startSmall();
  const manual: RequestInit = { redirect: "manual" };
  for (
    const [to, location] of [
      ["file:///etc/passwd", "file:///etc/passwd"],
      ["self", `${hub.endpoint}/api/models/org/m`],
      ["hops", `${hub.endpoint}/api/models/org/m?hop=1`],
      [undefined, null],
    ] as const
  ) {
    hub.faults.add({ kind: "redirect", to, path: "/api/models/org/m" });
    const { status, headers } = await get(hub, "/api/models/org/m", manual);
    assert.equal(status, 302);
    assert.equal(headers.get("Location"), location);
  }
  hub.faults.add({ kind: "redirect", to: "hops", times: Infinity });
  const second = await get(hub, "/api/models/org/m?hop=1", manual);
  assert.match(second.headers.get("Location")!, /hop=2$/);
});

Deno.test("fault answer: a listing that lies, a link to another origin", async () => {
  await using hub = await startSmall({ pageSize: 1 });
  hub.faults.add({
    kind: "answer",
    path: "/tree/",
    change: (answer) => ({
      ...answer,
      headers: { ...answer.headers, Link: `<${hub.storage}/next>; rel="next"` },
      body: new TextEncoder().encode(`[{"type":"file","path":"../x","size":1,"oid":"0"}]`),
    }),
  });
  const { text, headers } = await get(hub, "/api/models/org/m/tree/main");
  assert.match(text, /\.\.\/x/);
  assert.equal(headers.get("Link"), `<${hub.storage}/next>; rel="next"`);
});

Deno.test("fault changedJson: a tree with a wrong hash", async () => {
  await using hub = await startSmall();
  hub.faults.add({
    ...changedJson<{ path: string; lfs?: { oid: string } }[]>((entries) =>
      entries.map((entry) =>
        entry.lfs ? { ...entry, lfs: { ...entry.lfs, oid: "0".repeat(64) } } : entry
      )
    ),
    path: "/tree/",
  });
  const { text } = await get(hub, "/api/models/org/m/tree/main");
  const [weights] = (JSON.parse(text) as { lfs?: { oid: string } }[]).filter(({ lfs }) => lfs);
  assert.equal(weights?.lfs?.oid, "0".repeat(64));
});

Deno.test("fault lost: the commit is made, its answer is not heard", async () => {
  for (const status of [undefined, 504]) {
    await using hub = await startSmall();
    const before = hub.repo("org/m").head().sha;
    hub.faults.add({ kind: "lost", path: "/commit/", ...(status ? { status } : {}) });
    const body = [
      { key: "header", value: { summary: "one" } },
      { key: "file", value: { path: "new.txt", content: "new" } },
    ].map((line) => JSON.stringify(line)).join("\n");
    const asked = get(hub, "/api/models/org/m/commit/main", {
      method: "POST",
      body,
      ...bearer(TOKEN),
    });
    if (status) assert.equal((await asked).status, status);
    else await assert.rejects(asked);
    assert.notEqual(hub.repo("org/m").head().sha, before);
  }
});

Deno.test("a hub that ends lets nobody wait: stalls and delays are cut short", async () => {
  const hub = await startSmall();
  hub.faults.add({ kind: "delay", ms: 60_000 });
  hub.faults.add({ kind: "cut", on: "storage", how: "stall" });
  const late = assert.rejects(get(hub, "/api/models/org/m"));
  const stalled = assert.rejects(get(hub, MODEL));
  while (hub.log.every(({ sent }) => sent === 0)) await new Promise((r) => setTimeout(r, 5));
  await hub[Symbol.asyncDispose]();
  await Promise.all([late, stalled]);
});

Deno.test("faults can be switched on from another process, and the log can be read", async () => {
  await using hub = await startSmall();
  await get(hub, "/_fault", post({ kind: "status", status: 500, path: "models/org/m$" }));
  await get(hub, "/_fault", post({ kind: "reset", times: 9 }));
  assert.equal((await get(hub, "/api/models/org/m")).status, 500);
  await assert.rejects(get(hub, "/api/models/org/m"));
  await get(hub, "/_fault", { method: "DELETE" });
  assert.equal((await get(hub, "/api/models/org/m")).status, 200);
  const log = JSON.parse((await get(hub, "/_log")).text) as { status: number }[];
  assert.deepEqual([...new Set(log.map(({ status }) => status))], [500, 0, 200]);
});

/** Upload files with the Hub's own client. Returns the result and the paths of its requests. */
async function upload(
  hub: FakeHub,
  files: Readonly<Record<string, Uint8Array<ArrayBuffer> | string>>,
  options: { readonly isPullRequest?: boolean; readonly parentCommit?: string } = {},
): Promise<CommitOutput | undefined> {
  const iterator: AsyncGenerator<CommitProgressEvent, CommitOutput | undefined> = commitIter({
    repo: "me/up",
    hubUrl: hub.endpoint,
    accessToken: TOKEN,
    title: "Add files",
    useXet: false,
    operations: Object.entries(files).map(([path, content]) => ({
      operation: "addOrUpdate",
      path,
      content: new Blob([content]),
    })),
    ...options,
  });
  for (;;) {
    const step = await iterator.next();
    if (step.done) return step.value;
  }
}

Deno.test("the Hub's client lists, asks for information and knows who it is", async () => {
  await using hub = await startSmall({ pageSize: 2 });
  const repo = { hubUrl: hub.endpoint, repo: "org/m", accessToken: TOKEN };
  const paths: string[] = [];
  for await (const { path, type } of listFiles({ ...repo, recursive: true })) {
    if (type === "file") paths.push(path);
  }
  assert.deepEqual(paths, ["README.md", "config.json", "model.safetensors", "sub/deep/a.txt"]);
  const info = await fileDownloadInfo({ ...repo, path: "model.safetensors" });
  assert.equal(info?.size, WEIGHTS.length);
  assert.equal(await fileDownloadInfo({ ...repo, path: "nope" }), null);
  const model = await modelInfo({
    name: "org/m",
    hubUrl: hub.endpoint,
    additionalFields: ["sha"],
  });
  assert.equal(model.sha, hub.repo("org/m").head().sha);
  assert.equal((await whoAmI({ hubUrl: hub.endpoint, accessToken: TOKEN })).name, "me");
  assert.deepEqual(hub.violations, []);
});

Deno.test("the Hub's client makes a repository and uploads in one piece and in parts", async () => {
  await using hub = await startSmall({ partBytes: 30_000 });
  const repo = { hubUrl: hub.endpoint, repo: "me/up", accessToken: TOKEN };
  await createRepo({ ...repo, visibility: "private" });
  await assert.rejects(createRepo(repo), /already created/);
  const small = WEIGHTS.slice(0, 1000);
  const done = await upload(hub, { "a.safetensors": small, "b.safetensors": WEIGHTS, "c.md": "c" });
  const head = hub.repo("me/up").head();
  assert.equal(done?.commit.oid, head.sha);
  assert.equal(hub.repo("me/up").settings.private, true);
  assert.deepEqual([...head.files.keys()], [
    ".gitattributes",
    "a.safetensors",
    "b.safetensors",
    "c.md",
  ]);
  const again = await get(hub, "/me/up/resolve/main/b.safetensors", bearer(TOKEN));
  assert.deepEqual(again.bytes, WEIGHTS);
  assert.equal(hub.log.filter(({ method }) => method === "PUT").length, 1 + 4);
  // What is there already is not uploaded again.
  await upload(hub, { "d.safetensors": WEIGHTS });
  assert.equal(hub.log.filter(({ method }) => method === "PUT").length, 1 + 4);
  assert.deepEqual(hub.violations, []);
});

Deno.test("a pull request leaves the branch alone; a stale parent is refused with 412", async () => {
  await using hub = await startSmall();
  await createRepo({ hubUrl: hub.endpoint, repo: "me/up", accessToken: TOKEN });
  const parentCommit = hub.repo("me/up").head().sha;
  const done = await upload(hub, { "a.txt": "a" }, { isPullRequest: true });
  assert.equal(done?.pullRequestUrl, `${hub.endpoint}/me/up/discussions/1`);
  assert.equal(hub.repo("me/up").head().sha, parentCommit);
  assert.ok(hub.repo("me/up").head("refs/pr/1").files.has("a.txt"));
  await upload(hub, { "a.txt": "a" }, { parentCommit });
  await assert.rejects(upload(hub, { "b.txt": "b" }, { parentCommit }), /A commit has happened/);
});

Deno.test("uploads of wrong bytes, missing parts and unknown large files are refused", async () => {
  await using hub = await startSmall({ partBytes: 60_000 });
  const batch = async (size: number) => {
    const oid = sha256(WEIGHTS.subarray(0, size));
    const answer = await get(
      hub,
      "/org/m.git/info/lfs/objects/batch",
      post({ operation: "upload", transfers: ["basic", "multipart"], objects: [{ oid, size }] }),
    );
    return { oid, ...JSON.parse(answer.text).objects[0].actions.upload };
  };
  const { href } = await batch(100);
  const wrong = await get(hub, href, { method: "PUT", body: new Uint8Array(100) });
  assert.equal(wrong.status, 403);
  const { href: complete, oid, header } = await batch(99_999);
  assert.deepEqual(Object.keys(header), ["chunk_size", "00001", "00002"]);
  const part = await get(hub, header["00001"], { method: "PUT", body: WEIGHTS.slice(0, 60_000) });
  const parts = [{ partNumber: 1, etag: part.headers.get("ETag") }, { partNumber: 2, etag: "x" }];
  const unfinished = await get(hub, complete, {
    method: "POST",
    body: JSON.stringify({ oid, parts }),
  });
  assert.equal(unfinished.status, 400);
  const lines = [
    { key: "header", value: { summary: "one" } },
    { key: "lfsFile", value: { path: "a.bin", algo: "sha256", oid, size: 99_999 } },
  ];
  const { status } = await get(hub, "/api/models/org/m/commit/main", {
    method: "POST",
    body: lines.map((line) => JSON.stringify(line)).join("\n"),
    ...bearer(TOKEN),
  });
  assert.equal(status, 400);
});

Deno.test("who may not write is refused, with the reason", async () => {
  await using hub = await startSmall();
  const ask = async (path: string, token: string, body: unknown) =>
    (await get(hub, path, post(body, token))).status;
  assert.equal(await ask("/api/models/org/m/preupload/main", STRANGER_TOKEN, { files: [] }), 403);
  assert.equal(await ask("/api/models/org/m/preupload/main", READ_TOKEN, { files: [] }), 403);
  assert.equal(await ask("/api/models/org/m/preupload/main", TOKEN, { files: [] }), 200);
  assert.equal(await ask("/api/repos/create", TOKEN, { name: "x", organization: "other" }), 403);
  assert.equal(await ask("/api/repos/create", TOKEN, { name: "../x" }), 400);
  assert.equal(await ask("/api/models/org/m/branch/v1", TOKEN, {}), 200);
  assert.equal(await ask("/api/models/org/m/branch/v1", TOKEN, {}), 409);
  assert.equal(hub.repo("org/m").head("v1").sha, hub.repo("org/m").head().sha);
});

function synthetic(files: Readonly<Record<string, FileInput>>, name: string): SyntheticFile {
  return files[name] as SyntheticFile;
}

Deno.test("a synthetic checkpoint is made by range, the same each time, and its headers are right", async () => {
  const files = syntheticCheckpoint({
    totalBytes: 20_000_000,
    tensorBytes: 2_000_000,
    shardBytes: 8_000_000,
    columns: 256,
  });
  const index = JSON.parse(files["model.safetensors.index.json"] as string);
  const names = [...new Set(Object.values(index.weight_map as Record<string, string>))];
  assert.equal(names.length, 4);
  await using hub = await startFakeHub({ repos: { "org/big": files } });
  const seen = new Set<string>();
  for (const name of names) {
    const file = synthetic(files, name);
    const { bytes } = await get(hub, `/org/big/resolve/main/${name}`);
    assert.equal(bytes.length, file.size);
    for (const [begin, end] of [[12_345, 23_456], [0, 100], [1_999_000, 2_031_744]] as const) {
      assert.deepEqual(bytes.subarray(begin, end), file.read(begin, end));
    }
    const { headers } = await get(hub, `/org/big/resolve/main/${name}`, { redirect: "manual" });
    assert.equal(headers.get("X-Linked-Etag"), `"${sha256(bytes)}"`);
    const about = { file: name, fileSize: bytes.length };
    const { tensors } = parseHeader(bytes.slice(0, headerLength(bytes.slice(0, 64), about)), about);
    for (const { name: tensor, begin, dtype } of tensors) {
      assert.equal(index.weight_map[tensor], name);
      assert.equal(dtype, "bf16");
      seen.add(sha256(bytes.subarray(begin, begin + 512)));
    }
  }
  assert.equal(seen.size, Object.keys(index.weight_map).length, "two tensors begin alike");
});

Deno.test("20 GB and a tensor of 6 GB are served without being there", async () => {
  // The hashes are not what is seen here: given, they need not be computed.
  const known = (files: Record<string, FileInput>) =>
    Object.fromEntries(
      Object.entries(files).map(([name, file]) =>
        [
          name,
          typeof file === "object" && "read" in file
            ? { ...file, sha256: sha256(new TextEncoder().encode(name)) }
            : file,
        ] as const
      ),
    );
  const before = heldBytes();
  const large = known(syntheticCheckpoint({ totalBytes: 6e9, tensorBytes: 6e9 }));
  await using hub = await startFakeHub({
    repos: { "org/big": known(syntheticCheckpoint({ totalBytes: 20e9 })), "org/wide": large },
  });
  const { size } = synthetic(large, "model.safetensors");
  const wide = await get(hub, "/org/wide/resolve/main/model.safetensors", range(size - 1000, size));
  assert.equal(wide.bytes.length, 1000);
  assert.ok(wide.bytes.some((byte) => byte !== 0));
  const tree = JSON.parse((await get(hub, "/api/models/org/big/tree/main")).text) as {
    size: number;
  }[];
  assert.ok(tree.reduce((sum, { size }) => sum + size, 0) >= 20e9);
  assert.ok(heldBytes() - before < 500e6);
});

Deno.test("a person can start it on a folder, and gets the lines to export", async () => {
  const folder = await Deno.makeTempDir();
  await Deno.mkdir(`${folder}/org/m`, { recursive: true });
  await Deno.writeTextFile(`${folder}/org/m/config.json`, "{}");
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", new URL("fake_hub/main.ts", import.meta.url).pathname, folder],
    stdout: "piped",
  }).spawn();
  let text = "";
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  while (!text.includes("# org/m\n")) {
    const { value, done } = await reader.read();
    assert.ok(!done, `it ended after "${text}"`);
    text += value;
  }
  const [, endpoint] = /^export HF_ENDPOINT=(http:\/\/127\.0\.0\.1:\d+)$/m.exec(text) ?? [];
  const answer = await fetch(`${endpoint}/org/m/resolve/main/config.json`);
  assert.equal(await answer.text(), "{}");
  child.kill("SIGINT");
  while (!(await reader.read()).done);
  assert.equal((await child.status).code, 0);
  await Deno.remove(folder, { recursive: true });
});
