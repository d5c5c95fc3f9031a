/**
 * The client of the Hub: how repositories are named, what the environment says, what refusals mean,
 * and where the token goes.
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { HubError, RequestError } from "../src/errors.ts";
import { HubClient, type HubFile } from "../src/hub/client.ts";
import { AHEAD, NetworkThread } from "../src/hub/network_thread.ts";
import { BufferPool } from "../src/hub/buffer_pool.ts";
import { redact, shownUrl } from "../src/hub/redact.ts";
import { parseRepoSpec } from "../src/hub/repo_spec.ts";
import { HUB, HUB_VARIABLES, hubSettings } from "../src/hub/settings.ts";
import { askedWait, backoff, machineTiming } from "../src/hub/timing.ts";
import type { Event } from "../src/report.ts";
import { type FakeHub, READ_TOKEN, startFakeHub, STRANGER_TOKEN } from "./fake_hub/mod.ts";
import { CANARY, clientOf, describe, hasty, startHub } from "./hub_given.ts";

const FILES = { "config.json": "{}", "big.safetensors": new Uint8Array(300_000).fill(7) };

/** The error of an action that must fail. */
async function failing(act: () => Promise<unknown>): Promise<HubError> {
  try {
    await act();
  } catch (error) {
    assert.ok(error instanceof HubError, describe(error));
    return error;
  }
  throw new assert.AssertionError({ message: "it did not fail" });
}

/** A file of `org/model`. */
async function fileOf(client: HubClient, path: string): Promise<HubFile> {
  const files = await client.files(await client.pin(parseRepoSpec("org/model")!));
  return files.find((file) => file.path === path)!;
}

/** The error of opening a repository as somebody. */
async function opening(
  hub: FakeHub,
  spec: string,
  token?: string | undefined,
): Promise<HubError> {
  return await failing(async () => {
    const client = clientOf(hub, { token });
    const files = await client.files(await client.pin(parseRepoSpec(spec)!));
    for (const file of files) await client.readWhole(file);
  });
}

Deno.test("parseRepoSpec() knows names and revisions, and nothing that leads elsewhere", () => {
  const specs: readonly [string, string, string | undefined][] = [
    ["org/name", "org/name", undefined],
    ["gpt2", "gpt2", undefined],
    ["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", undefined],
    ["org/name@main", "org/name", "main"],
    ["org/name@feature/x.y", "org/name", "feature/x.y"],
    ["org/name@refs/pr/1", "org/name", "refs/pr/1"],
    ["hf://org/name@v1.0", "org/name", "v1.0"],
    ["hf://models/org/name", "org/name", undefined],
    ["https://huggingface.co/org/name", "org/name", undefined],
    ["https://hf.co/org/name/", "org/name", undefined],
    ["https://huggingface.co/gpt2", "gpt2", undefined],
    ["https://huggingface.co/org/name/tree/main", "org/name", "main"],
    ["https://www.huggingface.co/org/name/tree/refs/pr/1?show=all#x", "org/name", "refs/pr/1"],
  ];
  for (const [text, id, revision] of specs) {
    assert.deepEqual(parseRepoSpec(text), { kind: "model", id, revision }, text);
  }
  const none = [
    ["", ".", "..", "./x", "../x", "/x", "a/b/c", "a//b", "a/..", "a/.b", "-a/b", "a/b-", "a--b/c"],
    ["a/b@", "a/b@..", "a/b@x..y", "a/b@/x", "a/b@x/", "a/b@x y", "a/b@x%2f", "a/b@-x", "a/b@x?"],
    ["a b/c", "a/b#c", "a/b?c", "a\\b", "a/b.git", "é/b", "a/b@x\u0000", `a/${"b".repeat(97)}`],
  ].flat();
  for (const text of none) assert.equal(parseRepoSpec(text), undefined, text);
  const addresses = ["https://huggingface.co", "https://huggingface.co/", "https://elsewhere/a/b"];
  const others = ["https://huggingface.co/datasets/a/b", "https://huggingface.co/a/b/blob/main/x"];
  for (const text of [...addresses, ...others]) {
    assert.equal(parseRepoSpec(text), undefined, text);
  }
});

Deno.test("hubSettings() takes what huggingface_hub takes", async () => {
  const read: string[] = [];
  const files: Record<string, string> = {
    "/home/me/.cache/huggingface/token": "hf_file\n",
    "/x/token": "hf_x",
  };
  const settings = (env: Record<string, string>) =>
    hubSettings(env, (path) => {
      read.push(path);
      return Promise.resolve(files[path]);
    });
  const plain = await settings({ HOME: "/home/me" });
  assert.deepEqual(plain, {
    endpoint: HUB,
    token: "hf_file",
    readToken: "hf_file",
    offline: false,
    cacheFolder: "/home/me/.cache/huggingface/hub",
    idleTimeout: 10_000,
  });
  read.length = 0;
  const set = await settings({
    HOME: "/home/me",
    HF_TOKEN: " hf_env\r\n",
    HF_ENDPOINT: "https://hub.example/",
    HF_HOME: "~/hf",
    HF_HUB_OFFLINE: "ON",
    HF_HUB_DOWNLOAD_TIMEOUT: "30",
    HF_HUB_DISABLE_IMPLICIT_TOKEN: "1",
  });
  assert.deepEqual(read, [], "a token from the environment needs no file");
  assert.deepEqual(set, {
    endpoint: "https://hub.example",
    token: "hf_env",
    readToken: undefined,
    offline: true,
    cacheFolder: "/home/me/hf/hub",
    idleTimeout: 30_000,
  });
  assert.equal((await settings({ HF_TOKEN_PATH: "$X/token", X: "/x" })).token, "hf_x");
  assert.equal(
    (await settings({ HF_HOME: "/a", HF_HUB_CACHE: "${B}/c", B: "/b" })).cacheFolder,
    "/b/c",
  );
  assert.equal((await settings({ XDG_CACHE_HOME: "/c" })).cacheFolder, "/c/huggingface/hub");
  assert.deepEqual(await settings({}), {
    endpoint: HUB,
    token: undefined,
    readToken: undefined,
    offline: false,
    cacheFolder: undefined,
    idleTimeout: 10_000,
  });
  assert.equal((await settings({ HUGGING_FACE_HUB_TOKEN: "hf_old" })).token, "hf_old");
  // What is asked for is what `--allow-env` lists.
  const asked = new Set<string>();
  await hubSettings(
    new Proxy({}, {
      get: (_, name) => {
        asked.add(String(name));
        return undefined;
      },
    }),
    () => Promise.resolve(undefined),
  );
  assert.deepEqual([...asked].sort(), [...HUB_VARIABLES].sort());
});

Deno.test("redact() leaves no token, no signature and no user's name", () => {
  const text =
    `GET https://u:p@host/a/b?Signature=abc&X-Amz-Security-Token=x failed: Bearer abc.def,
    Authorization: Basic Zm9v token hf_abcDEF123 and my_secret; see https://host/docs#part`;
  const shown = redact(text, ["my_secret", undefined]);
  for (const secret of ["u:p", "Signature", "abc", "Zm9v", "hf_abc", "my_secret", "#part"]) {
    assert.ok(!shown.includes(secret), `${secret} in ${shown}`);
  }
  assert.ok(shown.includes("https://host/a/b") && shown.includes("https://host/docs"));
  assert.equal(shownUrl(new URL("https://u:p@host:1/x%20y?q#f")), "https://host:1/x%20y");
});

Deno.test("askedWait() obeys RateLimit only when nothing remains, and Retry-After in both forms", () => {
  const timing = hasty();
  const wait = (headers: Record<string, string>) => askedWait(new Headers(headers), timing);
  assert.equal(wait({}), undefined);
  assert.equal(wait({ RateLimit: '"api";r=499;t=55' }), undefined);
  assert.equal(wait({ RateLimit: '"api";r=0;t=55' }), 56_000);
  assert.equal(wait({ RateLimit: '"api"; r=0; t=7' }), 8000);
  assert.equal(wait({ "Retry-After": "3" }), 3000);
  assert.equal(wait({ "Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT" }), 9000);
  assert.equal(wait({ "Retry-After": "Thu, 01 Jan 2015 00:00:09 GMT" }), 0);
  assert.equal(wait({ "Retry-After": "soon" }), undefined);
  assert.equal(wait({ "Retry-After": "9", RateLimit: '"api";r=0;t=55' }), 56_000);
});

Deno.test("backoff() has full jitter, and an end", () => {
  const at = (random: number) => ({ ...hasty(), random: () => random });
  assert.deepEqual([1, 2, 3, 9].map((n) => backoff(n, at(1))), [1000, 2000, 4000, 30_000]);
  assert.equal(backoff(5, at(0)), 0);
});

Deno.test("the machine's clock waits, and stops waiting when it is told", async () => {
  const begun = performance.now();
  await machineTiming.wait(20);
  assert.ok(performance.now() - begun >= 15);
  const stop = new AbortController();
  const waiting = machineTiming.wait(60_000, stop.signal);
  stop.abort(new RangeError("enough"));
  await assert.rejects(waiting, /enough/);
  await assert.rejects(async () => await machineTiming.wait(1, stop.signal), /enough/);
});

Deno.test("every kind of repository that cannot be read has its sentence, with what to do", async () => {
  await using hub = await startFakeHub({
    repos: {
      "org/open": FILES,
      "org/private": { files: FILES, private: true },
      "org/gated": { files: FILES, gated: "manual" },
      "org/shut": { files: FILES, disabled: true },
    },
  });
  const cases: readonly [string, string | undefined, HubError["kind"], number, RegExp][] = [
    [
      "org/none",
      undefined,
      "missing-repo",
      401,
      /no model "org\/none", or it is private\. .*set HF_TOKEN/,
    ],
    ["org/none", READ_TOKEN, "missing-repo", 404, /your token's account/],
    ["org/private", undefined, "missing-repo", 401, /or it is private/],
    ["org/private", STRANGER_TOKEN, "missing-repo", 404, /your token's account/],
    [
      "org/gated",
      undefined,
      "gated",
      401,
      /gated.*Accept its terms at .*\/org\/gated, then set HF_TOKEN/,
    ],
    ["org/gated", STRANGER_TOKEN, "gated", 403, /with the account of your token/],
    ["org/shut", READ_TOKEN, "forbidden", 403, /Access to this resource is disabled/],
    [
      "org/open@nowhere",
      undefined,
      "missing-revision",
      404,
      /no revision "nowhere".*branches and tags/,
    ],
    ["org/open@feature/x", undefined, "missing-revision", 404, /no revision "feature\/x"/],
    ["org/open", "hf_wrong", "unauthorized", 401, /does not know your token\. Make a new one/],
  ];
  for (const [spec, token, kind, status, message] of cases) {
    const error = await opening(hub, spec, token);
    assert.equal(error.kind, kind, `${spec}: ${error.message}`);
    assert.equal(error.status, status, error.message);
    assert.match(error.message, message);
    assert.ok(error.url?.startsWith(hub.endpoint) && !error.url.includes("?"));
    assert.ok(!token || !describe(error).includes(token), error.message);
  }
  assert.deepEqual(hub.violations, []);
});

Deno.test("a file that is not there, and offline, are told", async () => {
  await using hub = await startHub(FILES);
  const client = clientOf(hub);
  const repo = await client.pin(parseRepoSpec("org/model")!);
  const file: HubFile = {
    repo,
    path: "no.txt",
    size: 5,
    hash: { kind: "git", hex: "0".repeat(40) },
  };
  const missing = await failing(() => client.readWhole(file));
  assert.equal(missing.kind, "missing-file");
  assert.match(missing.message, /"org\/model" has no file "no\.txt"/);
  const offline = await failing(() => clientOf(hub, { offline: true }).pin(repo));
  assert.equal(offline.kind, "offline");
  assert.match(offline.message, /switched off by HF_HUB_OFFLINE\. Unset it/);
});

Deno.test("a renamed repository is followed, with the token, and its new name is told", async () => {
  await using hub = await startHub(FILES);
  hub.rename("org/model", "org/other");
  const events: Event[] = [];
  const client = clientOf(hub, { report: (event) => events.push(event) });
  const pinned = await client.pin(parseRepoSpec("org/model")!);
  assert.equal(pinned.id, "org/other");
  assert.match(JSON.stringify(events), /is now .*org\/other/);
  for (const file of await client.files(pinned)) await client.readWhole(file);
  assert.ok(hub.log.slice(2).every(({ path }) => !path.includes("org/model")));
});

Deno.test("branches with slashes, pull requests and commits are revisions", async () => {
  await using hub = await startHub(FILES);
  const repository = hub.repo("org/model");
  const first = repository.head().sha;
  const branch = repository.commit({ branch: "feature/x y".replace(" ", "-"), files: { a: "1" } });
  repository.openPullRequest("main");
  const client = clientOf(hub);
  const pin = async (revision: string) =>
    (await client.pin(parseRepoSpec(`org/model@${revision}`)!)).commit;
  assert.equal(await pin("feature/x-y"), branch.sha);
  assert.equal(await pin("refs/pr/1"), first);
  assert.equal(await pin(first), first);
  assert.equal(await pin("main"), first);
});

Deno.test("paths are encoded: no file of a repository is another address", async () => {
  const odd = ["a#b.txt", "a?b.txt", "a b.txt", "ä/ö%20.txt", "x;y=z&.txt", "+.txt"];
  await using hub = await startHub(Object.fromEntries(odd.map((path) => [path, `of ${path}`])));
  const client = clientOf(hub);
  const repo = await client.pin(parseRepoSpec("org/model")!);
  const files = await client.files(repo);
  assert.deepEqual(files.map(({ path }) => path).sort(), [...odd].sort());
  for (const file of files) {
    assert.equal(new TextDecoder().decode(await client.readWhole(file)), `of ${file.path}`);
  }
  for (const path of ["../../api/whoami-v2", "a/../b", "./a", "a//b", ""]) {
    await assert.rejects(
      async () => await client.readWhole({ ...files[0]!, path }),
      RangeError,
      path,
    );
  }
});

Deno.test("the token goes to the Hub and nowhere else, not even to another port of it", async () => {
  await using hub = await startHub(FILES);
  const seen: [string, boolean][] = [];
  const spy: typeof fetch = (input, init) => {
    const headers = new Headers(init?.headers);
    seen.push([new URL(String(input)).origin, headers.has("authorization")]);
    assert.equal(headers.get("accept-encoding"), "identity");
    return fetch(input, init);
  };
  const client = clientOf(hub, { fetch: spy });
  const repo = await client.pin(parseRepoSpec("org/model")!);
  for (const file of await client.files(repo)) await client.readWhole(file);
  assert.ok(seen.some(([origin]) => origin === hub.storage));
  for (const [origin, told] of seen) assert.equal(told, origin === hub.endpoint, origin);
  assert.deepEqual(hub.violations, []);
  // The same host at another port, to which a redirect leads.
  const other = Promise.withResolvers<string | null>();
  await using _server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    (request) => {
      other.resolve(request.headers.get("authorization"));
      return new Response("{}");
    },
  );
  const { port } = _server.addr as Deno.NetAddr;
  hub.faults.add({ kind: "redirect", to: `http://127.0.0.1:${port}/`, path: "/revision/" });
  await failing(() => clientOf(hub).pin(repo));
  assert.equal(await other.promise, null);
});

Deno.test("the endpoint must be an address to which the token may go", () => {
  const make = (endpoint: string, token?: string) =>
    new HubClient({ endpoint, userAgent: "x", ...(token === undefined ? {} : { token }) });
  for (const endpoint of ["", "huggingface.co", "ftp://x", "file:///x", "https://u:p@x"]) {
    assert.throws(() => make(endpoint), RequestError, endpoint);
  }
  assert.throws(() => make("http://hub.example", CANARY), /not encrypted/);
  make("http://hub.example");
  make("http://127.0.0.1:1", CANARY);
  make("http://[::1]:1", CANARY);
  make("https://hub.example/mirror", CANARY);
});

Deno.test("a server that asks for more than five minutes is not waited for", async () => {
  await using hub = await startHub(FILES);
  hub.faults.add({
    kind: "status",
    status: 429,
    headers: { "Retry-After": "3000" },
    path: "/revision/",
    times: 99,
  });
  const timing = hasty();
  const error = await failing(() => clientOf(hub, { timing }).pin(parseRepoSpec("org/model")!));
  assert.equal(error.kind, "rate-limited");
  assert.match(error.message, /It asks to wait 50 minutes: come back then\.$/);
  assert.deepEqual(timing.waits, []);
});

Deno.test("waits are those that the server asks for, else grow with jitter", async () => {
  await using hub = await startHub(FILES);
  const path = "/revision/";
  hub.faults.add({ kind: "status", status: 429, headers: { "Retry-After": "7" }, path });
  hub.faults.add({ kind: "status", status: 429, headers: { RateLimit: '"api";r=0;t=20' }, path });
  hub.faults.add({ kind: "status", status: 503, path, times: 3 });
  const timing = { ...hasty(), random: () => 0.5 };
  const events: Event[] = [];
  const client = clientOf(hub, { timing, report: (event) => events.push(event) });
  await client.pin(parseRepoSpec("org/model")!);
  assert.deepEqual(timing.waits, [7000, 21_000, 2000, 4000, 8000]);
  // Waits that a person would wonder about are told.
  assert.deepEqual(
    events.map((event) => event.type === "warning" && /waiting (\d+) s/.exec(event.message)?.[1]),
    ["7", "21", "8"],
  );
});

Deno.test("progress resets the count of failures, the lack of it does not", async () => {
  const size = 300_000;
  await using hub = await startHub({ "big.safetensors": new Uint8Array(size).fill(7) });
  const client = clientOf(hub);
  const repo = await client.pin(parseRepoSpec("org/model")!);
  const [file] = await client.files(repo);
  for (let at = 70_000; at < size; at += 70_000) {
    for (let i = 0; i < 4; i++) {
      hub.faults.add({ kind: "cut", at, how: "close", on: "storage", path: "big" });
    }
  }
  assert.equal((await client.readWhole(file!)).length, size);
  hub.faults.clear();
  hub.faults.add({ kind: "cut", at: 70_000, how: "reset", on: "storage", path: "big", times: 99 });
  const error = await failing(() => client.readWhole(file!));
  assert.equal(error.kind, "unreachable");
});

Deno.test("an abort ends a transfer with its own reason", async () => {
  await using hub = await startHub(FILES);
  const client = clientOf(hub);
  const file = await fileOf(client, "big.safetensors");
  hub.faults.add({ kind: "cut", at: 100_000, how: "stall", on: "storage" });
  const stop = new AbortController();
  const reading = client.read(file, { begin: 0, end: file.size, signal: stop.signal });
  setTimeout(() => stop.abort(new RangeError("enough")), 50);
  await assert.rejects(reading, /enough/);
});

/** Buffers that are counted while they are away. */
class CountedBuffers extends BufferPool {
  away = 0;
  most = 0;

  override take() {
    this.most = Math.max(this.most, ++this.away);
    return super.take();
  }

  override give(bytes: Uint8Array<ArrayBuffer>) {
    this.away--;
    super.give(bytes);
  }
}

Deno.test("the network's thread fills buffers, and all of them come back, whatever happens", async () => {
  const bytes = Uint8Array.from({ length: 300_001 }, (_, i) => i * 7 + (i >> 8));
  await using hub = await startHub({ "big.safetensors": bytes });
  const client = clientOf(hub);
  const file = await fileOf(client, "big.safetensors");
  using thread = new NetworkThread();
  const buffers = new CountedBuffers(20_000);
  const by = thread.fetching;
  const sizes: number[] = [];
  const received = new Uint8Array(bytes.length);
  let at = 0;
  for await (const chunk of client.stream(file, { begin: 0, end: bytes.length, buffers, by })) {
    received.set(chunk, at);
    at += chunk.length;
    sizes.push(chunk.length);
    buffers.give(chunk);
  }
  assert.ok(Buffer.from(received).equals(bytes));
  // As many as fit at once, unless a slow machine handed them on sooner.
  assert.ok(sizes.length <= 30 && sizes.reduce((a, b) => a + b) === bytes.length, `${sizes}`);
  assert.ok(buffers.most <= AHEAD + 1, `${buffers.most}`);
  assert.equal(buffers.away, 0);

  for await (const chunk of client.stream(file, { begin: 5, end: bytes.length, buffers, by })) {
    assert.equal(chunk[0], bytes[5]);
    buffers.give(chunk);
    break;
  }
  assert.equal(buffers.away, 0);

  const stop = new AbortController();
  await assert.rejects(async () => {
    const span = { begin: 0, end: bytes.length, buffers, by, signal: stop.signal };
    for await (const chunk of client.stream(file, span)) {
      buffers.give(chunk);
      stop.abort(new Error("It was stopped."));
    }
  }, /^Error: It was stopped\.$/);
  assert.equal(buffers.away, 0);

  // While bytes that nobody will wait for are in a buffer that is not full.
  hub.faults.add({ kind: "cut", at: 10_000, how: "stall", on: "storage" });
  const soon = new AbortController();
  setTimeout(() => soon.abort(new Error("It was stopped.")), 50);
  await assert.rejects(
    client.read(file, { begin: 0, end: bytes.length, buffers, by, signal: soon.signal }),
    /^Error: It was stopped\.$/,
  );
  assert.equal(buffers.away, 0);
});

Deno.test("a thread that was ended tells those who read by it", async () => {
  await using hub = await startHub(FILES);
  const client = clientOf(hub);
  const file = await fileOf(client, "big.safetensors");
  const thread = new NetworkThread();
  const reading = client.read(file, { begin: 0, end: file.size, by: thread.fetching });
  thread[Symbol.dispose]();
  await assert.rejects(reading, /^Error: The network's thread was ended\.$/);
});

Deno.test("what came before a silence counts, on either thread", async () => {
  const bytes = Uint8Array.from({ length: 900_000 }, (_, i) => i * 7 + (i >> 8));
  await using hub = await startHub({ "big.safetensors": bytes });
  const client = clientOf(hub, { idleTimeout: 400 });
  const file = await fileOf(client, "big.safetensors");
  using thread = new NetworkThread();
  for (const by of [undefined, thread.fetching]) {
    // More of them than a request may fail without progress.
    for (let at = 100_000; at < bytes.length; at += 100_000) {
      hub.faults.add({ kind: "cut", at, how: "stall", on: "storage" });
    }
    const buffers = new BufferPool(2 ** 20);
    const read = await client.read(file, { begin: 0, end: bytes.length, buffers, by });
    assert.ok(Buffer.from(read).equals(bytes));
  }
});

Deno.test({
  name: "what Deno does not allow is told by the network's thread as it is by this one",
  permissions: { net: false },
  async fn() {
    using thread = new NetworkThread();
    const { signal } = new AbortController();
    await assert.rejects(
      thread.fetching(new URL("http://127.0.0.1:7777/"), {
        method: "GET",
        headers: {},
        signal,
        idle: 1000,
      }),
      (error) =>
        error instanceof Deno.errors.NotCapable && error.message.includes("run again with the"),
    );
  },
});
