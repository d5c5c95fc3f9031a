/**
 * Checkpoints on the Hub, through the fake one: the same bytes as from a folder, within the budget
 * of disk, whatever the network does. The cases are those of the fault table in the project's notes
 * (N1 to N9, C1, C3). SLUICE_FAULT_SEED replays a run, SLUICE_FAULT_STEP (bytes between two cuts,
 * 4096 unless given) makes it finer; SLUICE_FAULT_FLIPS (60) and SLUICE_FAULT_ROUNDS (60) say how
 * many bits of a shard are flipped and how many mixes are tried.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { CheckpointError, HubError, SpaceError } from "../src/errors.ts";
import { type Disk, disk as machine } from "../src/io/disk.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { BufferPool } from "../src/hub/buffer_pool.ts";
import { BATCH, Copy, WINDOW } from "../src/sources/hub_copy.ts";
import { openHub } from "../src/sources/hub.ts";
import type { Span } from "../src/hub/client.ts";
import { Uses } from "../src/sources/hub_uses.ts";
import { isCompanion } from "../src/sources/companions.ts";
import type { Fault, FaultMatch } from "./fake_hub/mod.ts";
import {
  clientOf,
  describe,
  hasty,
  type ReadingOptions,
  readModel,
  SEED,
  seeded,
  smallRepository,
  startHub,
  tellCases,
} from "./hub_given.ts";
import { headerOf } from "./memory.ts";

const FILES = smallRepository(64 * 2 ** 10);
const SHARDS = Object.keys(FILES).filter((name) => name.endsWith(".safetensors"));
const shardBytes = (name: string) => FILES[name] as Uint8Array<ArrayBuffer>;
const LARGEST = Math.max(...SHARDS.map((name) => shardBytes(name).length));
const STEP = Number(Deno.env.get("SLUICE_FAULT_STEP") ?? 4096);
/** Whether there are as many cases as the plan of faults has. */
const FINER = STEP < 4096;
/** Bits that are flipped in each shard. */
const FLIPS = Number(Deno.env.get("SLUICE_FAULT_FLIPS") ?? 60);
/** What a run without faults gives. */
const GOLDEN = await (async () => {
  await using hub = await startHub(FILES);
  return (await readModel(hub)).digest!;
})();

/**
 * Both ways to read: whole files through the staging folder, with room for one, and tensors by
 * range.
 */
const WAYS: readonly ReadingOptions[] = [{ maxDisk: LARGEST }, {}];

/**
 * Every case must end in the same bytes or in an error that a user is meant to see. Returns how
 * many ended in the same bytes.
 */
async function withFaults(
  cases: Iterable<readonly (Fault & FaultMatch)[]>,
  { ways = WAYS, ...options }: ReadingOptions & { readonly ways?: readonly ReadingOptions[] } = {},
): Promise<{ same: number; failed: string[] }> {
  await using hub = await startHub(FILES);
  let same = 0;
  const failed: string[] = [];
  for (const faults of cases) {
    for (const way of ways) {
      hub.faults.clear();
      hub.log.length = 0;
      for (const fault of faults) hub.faults.add(fault);
      const { digest, error } = await readModel(hub, { ...options, ...way });
      const about = `seed ${SEED}, ${JSON.stringify(faults)}, ${JSON.stringify(way)}`;
      if (error === undefined) {
        assert.equal(digest, GOLDEN, `other bytes: ${about}`);
        same++;
      } else {
        assert.ok(
          error instanceof HubError || error instanceof CheckpointError,
          `${about}: ${describe(error)}`,
        );
        failed.push(error.message);
      }
    }
  }
  tellCases(same + failed.length);
  return { same, failed };
}

Deno.test("a model on the Hub has the tensors, files and configuration of its folder", async () => {
  const folder = await Deno.makeTempDir();
  for (const [name, content] of Object.entries(FILES)) {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    await Deno.writeFile(`${folder}/${name}`, bytes);
  }
  await using hub = await startHub(FILES);
  {
    await using local = await openCheckpoint(folder);
    await using remote = await openHub("org/model", { client: clientOf(hub) });
    assert.deepEqual([...remote.tensors], [...local.tensors]);
    assert.deepEqual([...remote.fileOf], [...local.fileOf]);
    assert.deepEqual([...remote.files], [...local.files]);
    assert.equal(remote.configText, local.configText);
    assert.equal(remote.label, "org/model");
    assert.equal(remote.id, `org/model@${hub.repo("org/model").head().sha}`);
    for (const [name, { shape }] of local.tensors) {
      assert.deepEqual(await remote.read(name), await local.read(name), name);
      if ((shape[0] ?? 0) < 4 || name.endsWith(".1")) continue;
      const rows = { from: 0, to: shape[0]! / 2 - shape[0]! / 2 % 2 };
      assert.deepEqual(await remote.read(name, rows), await local.read(name, rows), name);
    }
    for (const path of local.files.keys()) {
      assert.ok(isCompanion(path));
      assert.deepEqual(await remote.readFile(path), await local.readFile(path));
    }
    await assert.rejects(remote.read("nothing"), RangeError);
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("headers cost one request per shard, and none of them reads on", async () => {
  await using hub = await startHub(FILES);
  await using _source = await openHub("org/model", { client: clientOf(hub) });
  const reads = hub.log.filter(({ origin }) => origin === "storage");
  assert.equal(reads.length, 2);
  assert.ok(reads.every(({ sent }) => sent <= 64 * 2 ** 10));
});

Deno.test("N1: cuts at every step of a shard, closed, reset or silent, lose nothing", async () => {
  const cases: (Fault & FaultMatch)[][] = [];
  for (const name of SHARDS) {
    for (let at = 0; at < shardBytes(name).length; at += STEP) {
      for (const how of ["close", "reset", "stall"] as const) {
        cases.push([{ kind: "cut", at, how, on: "storage", path: name }]);
      }
    }
  }
  const { failed } = await withFaults(cases, {
    ways: [WAYS[0]!],
    client: { idleTimeout: 500 },
  });
  assert.deepEqual(failed, []);
});

Deno.test("N2: cuts within the header lose nothing", async () => {
  const name = SHARDS[0]!;
  const { headerBytes } = headerOf(shardBytes(name));
  const cases: (Fault & FaultMatch)[][] = [];
  const step = Math.max(1, Math.floor(headerBytes * STEP / 200_000));
  for (let at = 0; at <= headerBytes; at += at < 16 ? 1 : step) {
    cases.push([{ kind: "cut", at, how: "close", on: "storage", path: name }]);
  }
  const { failed } = await withFaults(cases, { ways: [{}] });
  assert.deepEqual(failed, []);
});

Deno.test("N3: cuts at, before and behind the end of a tensor lose nothing", async () => {
  const cases: (Fault & FaultMatch)[][] = [];
  for (const name of FINER ? SHARDS : [SHARDS[1]!]) {
    for (const [i, { end }] of headerOf(shardBytes(name)).tensors.entries()) {
      for (const at of [end - 1, end, end + 1]) {
        if (at >= shardBytes(name).length) continue;
        const hows = ["close", "reset"] as const;
        for (const how of FINER ? hows : [hows[i % 2]!]) {
          cases.push([{ kind: "cut", at, how, on: "storage", path: name }]);
        }
      }
    }
  }
  const { failed } = await withFaults(cases, { ways: FINER ? WAYS : [WAYS[0]!] });
  assert.deepEqual(failed, []);
});

Deno.test("N4: answers in writes of any size are put together", async () => {
  const sizes = [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097, 65535, 65536, 65537];
  const cases: (Fault & FaultMatch)[][] = [];
  for (const path of ["/tree/", "index.json", SHARDS[0]!, "tokenizer.json"]) {
    for (const size of sizes) {
      if (path === SHARDS[0] && size < 15) continue; // a minute of writes each
      cases.push([{ kind: "dribble", size, path }]);
    }
  }
  const { failed } = await withFaults(cases, { ways: [WAYS[0]!] });
  assert.deepEqual(failed, []);
});

Deno.test("N5: storms of refusals that pass are sat out, longer ones are told", async () => {
  const storms: Fault[] = [
    { kind: "status", status: 429, headers: { "Retry-After": "3" } },
    { kind: "status", status: 429, headers: { RateLimit: '"api";r=0;t=55' } },
    { kind: "status", status: 429 },
    { kind: "status", status: 429, headers: { "Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT" } },
    ...[408, 500, 502, 503, 504].map((status): Fault => ({ kind: "status", status })),
    { kind: "reset" },
  ];
  const places: FaultMatch[] = [
    { path: "/revision/" },
    { path: "/tree/" },
    { path: "/resolve/", on: "hub" },
    { path: "/resolve-cache/" },
    { path: SHARDS[0]!, on: "storage" },
  ];
  const cases = (times: number) =>
    places.flatMap((place) =>
      storms
        // Where nobody ever answered, the third reset is the last.
        .filter(({ kind }) => kind !== "reset" || place.path !== "/revision/" || times === 1)
        .map((storm) => [{ ...storm, ...place, times }])
    );
  for (const times of [1, 3, 5]) {
    const { failed } = await withFaults(cases(times), { ways: [WAYS[times % 2]!] });
    assert.deepEqual(failed, [], `${times} times`);
  }
  const { same, failed } = await withFaults(cases(1000), { ways: [WAYS[0]!] });
  assert.equal(same, 0);
  for (const message of failed) assert.match(message, /[a-z0-9]\. [A-Z][^.]+\.?.*\.$/);
});

Deno.test("N6: answers framed wrongly are errors or are mended, never other bytes", async () => {
  const wrong: Fault[] = [
    { kind: "length", by: 10 },
    { kind: "length", by: -10 },
    { kind: "short", by: 100, framing: "close" },
    { kind: "short", by: 100, framing: "chunked" },
    { kind: "short", by: 100, framing: "length" },
    { kind: "long", by: 100, framing: "close" },
    { kind: "long", by: 100, framing: "chunked" },
    { kind: "long", by: 100, framing: "length" },
    { kind: "cut", how: "close" },
    { kind: "content_range", value: "bytes 1-100/1000" },
    { kind: "content_range", value: "bytes 0-65535/999999" },
    { kind: "content_range", value: undefined },
    { kind: "ignore_range" },
    { kind: "status", status: 416, headers: { "Content-Range": "bytes */10" } },
    { kind: "status", status: 206, body: "short" },
    { kind: "html" },
    { kind: "gzip" },
    { kind: "multipart" },
  ];
  const once: (Fault & FaultMatch)[][] = [], always: (Fault & FaultMatch)[][] = [];
  for (const fault of wrong) {
    for (const path of ["index.json", SHARDS[0]!]) {
      const on = path === SHARDS[0] ? { on: "storage" as const } : {};
      once.push([{ ...fault, ...on, path }]);
      // The same when a transfer goes on where it was cut.
      once.push([{ kind: "cut", how: "reset", path, ...on }, { ...fault, ...on, path, skip: 1 }]);
      always.push([{ ...fault, ...on, path, times: 1000 }]);
    }
  }
  const mended = await withFaults(once);
  // Refused at once are bodies that are encoded, and 416, after which no second try would be
  // better.
  for (const message of mended.failed) assert.match(message, /encodes the body|answers 416/);
  const { failed } = await withFaults(always);
  assert.ok(failed.length > always.length, `${failed.length} of ${2 * always.length}`);
});

Deno.test("N7: redirects are followed within reason", async () => {
  const go = (to: string | undefined): Fault & FaultMatch => ({
    kind: "redirect",
    to,
    path: "/resolve/",
    on: "hub",
    times: 1000,
  });
  const refused: readonly [string | undefined, RegExp][] = [
    ["self", /more than 5 times/],
    ["hops", /more than 5 times/],
    [undefined, /without saying where to/],
    ["file:///etc/passwd", /not safe/],
    ["data:text/plain,x", /not safe/],
    ["ftp://localhost/x", /not safe/],
    ["http://192.0.2.1/x", /not safe/],
    ["http://user:secret@localhost/x", /user's name/],
  ];
  for (const [to, message] of refused) {
    const { same, failed } = await withFaults([[go(to)]]);
    assert.equal(same, 0, String(to));
    for (const text of failed) {
      assert.match(text, message);
      assert.ok(!text.includes("secret"));
    }
  }
  // A relative redirect on the way, and an address that expires in the middle.
  const { failed } = await withFaults([
    [{ kind: "status", status: 403, on: "storage", path: SHARDS[0]!, skip: 1, times: 2 }],
    [
      { kind: "cut", how: "reset", on: "storage", path: SHARDS[1]! },
      { kind: "status", status: 403, on: "storage", path: SHARDS[1]!, skip: 2 },
    ],
  ]);
  assert.deepEqual(failed, []);
});

Deno.test("an address that has expired is asked for again, until then it is used for every range", async () => {
  await using hub = await startHub(FILES);
  await using source = await openHub("org/model", { client: clientOf(hub) });
  const names = [...source.tensors.keys()].slice(0, 8);
  const before = hub.log.length;
  for (const name of names) await source.read(name);
  assert.equal(hub.log.slice(before).filter(({ origin }) => origin === "hub").length, 0);
  hub.expireUrls();
  for (const name of names) await source.read(name);
  assert.equal(
    hub.log.slice(before).filter(({ origin }) => origin === "hub").length,
    1,
  );
});

Deno.test("N8: a branch that moves, and files that go, change nothing once the commit is known", async () => {
  await using hub = await startHub(FILES);
  const repository = hub.repo("org/model");
  await using source = await openHub("org/model", { client: clientOf(hub) });
  const name = [...source.tensors.keys()][0]!;
  const first = await source.read(name);
  const other = shardBytes(SHARDS[0]!).slice();
  other.fill(9, other.length - 1000);
  repository.commit({ files: { [SHARDS[0]!]: other }, deleted: [SHARDS[1]!, "tokenizer.json"] });
  assert.deepEqual(await source.read(name), first);
  assert.ok((await source.readFile("tokenizer.json")).length > 0);
  for (const tensor of source.tensors.keys()) await source.read(tensor);
});

Deno.test("N8: a list of files that lies, breaks off, or leads away is refused", async () => {
  const changed = (edit: (text: string) => string, headers = {}): Fault & FaultMatch => ({
    kind: "answer",
    path: "/tree/",
    times: 1000,
    change: (answer) => ({
      ...answer,
      headers: { ...answer.headers, ...headers },
      body: new TextEncoder().encode(
        edit(new TextDecoder().decode(answer.body as Uint8Array<ArrayBuffer>)),
      ),
    }),
  });
  const link = (to: string) => changed((text) => text, { Link: `<${to}>; rel="next"` });
  const refused: readonly [Fault & FaultMatch, RegExp][] = [
    [link("http://localhost:9/api/models"), /goes on at another server/],
    [link("https://example.org/"), /goes on at another server/],
    [link("?recursive=true"), /does not end/],
    [changed(() => "{}"), /no list of files/],
    [changed(() => "[1]"), /no file/],
    [changed((text) => text.replace(/"oid":"[0-9a-f]{64}",/g, "")), /no file/],
    [changed((text) => text.replace(/"size":\d+/, '"size":-1')), /no file/],
    [changed((text) => text.replace(/^\[(\{[^{]*?\}),/, "[$1,$1,")), /twice/],
  ];
  for (const [fault, message] of refused) {
    const { same, failed } = await withFaults([[fault]], { ways: [{}] });
    assert.equal(same, 0);
    assert.match(failed[0]!, message);
  }
});

Deno.test("a list of many pages is read to its end", async () => {
  const files = { ...FILES };
  for (let i = 0; i < 25; i++) files[`notes/${i}.txt`] = `${i}`;
  await using hub = await startHub(files, { pageSize: 4 });
  const { digest, error } = await readModel(hub, { maxDisk: LARGEST });
  assert.equal(digest, GOLDEN, describe(error));
  assert.ok(hub.log.filter(({ path }) => path.includes("/tree/")).length >= 7);
});

Deno.test("N9: a Hub that is not there is told of soon, with what to do", async () => {
  const { endpoint } = await (async () => {
    await using hub = await startHub(FILES);
    return hub;
  })();
  const timing = hasty();
  await using hub = await startHub(FILES);
  const { error } = await readModel(hub, { client: { endpoint, timing } });
  assert.ok(error instanceof HubError && error.kind === "unreachable", describe(error));
  assert.match(error.message, /cannot be reached.*3 times\. Check the network, the proxy/);
  assert.equal(timing.waits.length, 2);
});

Deno.test("N9: connections that are reset at once, or stay silent, are told apart", async () => {
  const always = { times: 1000 };
  const reset = await withFaults([[{ kind: "reset", ...always }]]);
  assert.match(reset.failed[0]!, /connection broke/);
  const silent = await withFaults([[{ kind: "delay", ms: 400, ...always }]], {
    client: { idleTimeout: 40 },
    ways: [{}],
  });
  assert.match(silent.failed[0]!, /sent nothing for 0\.04 seconds, 3 times/);
});

Deno.test("N9: a Hub that does not speak TLS, and a proxy that is not there, are told of with what to do", async () => {
  await using hub = await startHub(FILES);
  const plain = hub.endpoint.replace("http:", "https:");
  const { error } = await readModel(hub, { client: { endpoint: plain, timing: hasty() } });
  assert.ok(error instanceof HubError && error.kind === "unreachable", describe(error));
  assert.match(error.message, /Check the network, the proxy/);
  // Deno takes the proxy of the environment when a process begins.
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "cli.ts", "inspect", "org/model"],
    env: {
      HF_ENDPOINT: hub.endpoint,
      HF_HUB_OFFLINE: "0",
      HTTP_PROXY: "http://127.0.0.1:9",
      NO_PROXY: "",
      no_proxy: "",
      NO_COLOR: "1",
    },
  }).output();
  const told = new TextDecoder().decode(stderr);
  assert.equal(code, 4, told);
  assert.match(told, /Check the network, the proxy/);
  assert.deepEqual(hub.log, []);
});

Deno.test("C1: a flipped bit anywhere in a shard that is read whole is found or mended", async () => {
  const random = seeded(SEED);
  const cases: (Fault & FaultMatch)[][] = [];
  for (const name of SHARDS) {
    const size = shardBytes(name).length;
    for (let i = 0; i < FLIPS; i++) {
      const at = i < FLIPS / 2
        ? Math.floor(random() * headerOf(shardBytes(name)).headerBytes)
        : Math.floor(random() * size);
      // Once, or whenever the byte is read; the first time or the second: the header is read before
      // the file is.
      const times = i % 3 === 0 ? 1000 : 1;
      cases.push([{
        kind: "corrupt",
        at,
        xor: 1 << i % 8,
        on: "storage",
        path: name,
        times,
        skip: times === 1 ? i % 2 : 0,
      }]);
    }
  }
  const { same, failed } = await withFaults(cases, { ways: [WAYS[0]!] });
  assert.ok(failed.length >= 0.6 * FLIPS, `${failed.length} of ${same + failed.length}`);
});

Deno.test("C1: a byte that was read by range and comes otherwise in the whole file is found", async () => {
  await using hub = await startHub(FILES);
  const tensor = headerOf(shardBytes(SHARDS[0]!)).tensors.find(({ begin, end }) => end > begin)!;
  const parent = await Deno.makeTempDir();
  {
    await using source = await openHub("org/model", {
      client: clientOf(hub),
      stagingFolder: parent,
      maxDisk: LARGEST,
    });
    hub.faults.add({ kind: "corrupt", at: tensor.begin, on: "storage" });
    await source.read(tensor.name);
    source.schedule!([{ name: tensor.name }]);
    assert.deepEqual(
      await source.read(tensor.name),
      shardBytes(SHARDS[0]!).slice(tensor.begin, tensor.end),
    );
    await assert.rejects(source.verified!(), /came otherwise when they were read alone/);
  }
  assert.deepEqual([...Deno.readDirSync(parent)], []);
  await Deno.remove(parent);
});

Deno.test("C1: what was given out of a file that had not come to its end can be checked by another process", async () => {
  await using hub = await startHub(FILES);
  const [file] = SHARDS as [string];
  const { name, begin, end } = headerOf(shardBytes(file)).tensors.find((one) =>
    one.end > one.begin
  )!;
  const parent = await Deno.makeTempDir();
  const openAnew = () =>
    openHub("org/model", {
      client: clientOf(hub),
      stagingFolder: parent,
      maxDisk: LARGEST,
    });
  const right = createHash("sha256").update(shardBytes(file).subarray(begin, end)).digest("hex");
  {
    await using source = await openAnew();
    source.recheck!([]);
    source.schedule!([{ name }, { name: headerOf(shardBytes(file)).tensors.at(-1)!.name }]);
    await source.read(name);
    // A hash is known some messages of another thread after the last byte.
    assert.deepEqual(source.unchecked!().filter((span) => span.begin === begin), [
      { file, begin, end, sha256: right },
    ]);
  }
  for (const sha256 of [right, "0".repeat(64)]) {
    await using source = await openAnew();
    source.recheck!([{ file, begin, end, sha256 }]);
    source.schedule!([]);
    if (sha256 === right) await source.verified!();
    else await assert.rejects(source.verified!(), /came otherwise when they were read alone/);
    assert.equal(source.unchecked!().length > 0, sha256 !== right);
  }
  await Deno.remove(parent);
});

Deno.test("C3: sizes and hashes that do not fit are refused", async () => {
  const tree = (edit: (entry: Record<string, unknown>) => unknown): Fault & FaultMatch => ({
    kind: "answer",
    path: "/tree/",
    times: 1000,
    change: (answer) => {
      const list = JSON.parse(new TextDecoder().decode(answer.body as Uint8Array<ArrayBuffer>));
      const text = JSON.stringify(list.map(edit));
      return { ...answer, body: new TextEncoder().encode(text) };
    },
  });
  const shard = (change: (lfs: { oid: string; size: number }) => object) =>
    tree((entry) =>
      entry.path === SHARDS[0]
        ? {
          ...entry,
          ...("size" in change(entry.lfs as never) ? { size: (entry.size as number) + 8 } : {}),
          lfs: { ...entry.lfs as object, ...change(entry.lfs as never) },
        }
        : entry
    );
  const headers: Fault & FaultMatch = {
    kind: "answer",
    path: "/resolve/",
    on: "hub",
    times: 1000,
    // A Hub whose redirects say nothing of the file.
    change: ({ headers = {}, ...answer }) => ({
      ...answer,
      headers: Object.fromEntries(
        Object.entries(headers).filter(([name]) => !/^x-linked/i.test(name)),
      ),
    }),
  };
  const wrongHash = shard(() => ({ oid: "0".repeat(64) }));
  const wrongSize = shard(({ size }) => ({ size: size + 8 }));
  const wrongGit = tree((entry) =>
    entry.path === "tokenizer.json" ? { ...entry, oid: "1".repeat(40) } : entry
  );
  for (
    const [faults, message] of [
      [[wrongHash], /says the file's SHA-256 is [0-9a-f]{64}, and its list of files says 0{64}/],
      [[wrongSize], /says the file has \d+ bytes, and its list of files says \d+/],
      [[wrongHash, headers], /its SHA-256 is [0-9a-f]{64}, and the repository promises 0{64}/],
      [[wrongSize, headers], /sends \d+ bytes, expected \d+, 6 times/],
      [[wrongGit], /its git hash is [0-9a-f]{40}, and the repository promises 1{40}/],
    ] as const
  ) {
    const { same, failed } = await withFaults([faults], { ways: [WAYS[0]!] });
    assert.equal(same, 0);
    assert.match(failed[0]!, message);
  }
});

Deno.test("any mix of faults, orders and budgets ends in the same bytes or a clear error, and soon", async () => {
  const random = seeded(SEED);
  const pick = <T>(list: readonly T[]) => list[Math.floor(random() * list.length)]!;
  const makeFault = (): Fault => {
    const at = Math.floor(random() * LARGEST);
    return pick<Fault>([
      { kind: "cut", at, how: pick(["close", "reset", "stall"]) },
      { kind: "short", by: 1 + at % 500, framing: pick(["length", "chunked", "close"]) },
      { kind: "long", by: 1 + at % 500, framing: pick(["length", "chunked", "close"]) },
      { kind: "corrupt", at, xor: 1 << at % 8 },
      { kind: "status", status: pick([403, 404, 408, 429, 500, 503]) },
      { kind: "dribble", size: 1000 + at },
      { kind: "ignore_range" },
      { kind: "html" },
      { kind: "gzip" },
      { kind: "reset" },
      { kind: "delay", ms: at % 30 },
      { kind: "content_range", value: undefined },
    ]);
  };
  await using hub = await startHub(FILES);
  const rounds = Number(Deno.env.get("SLUICE_FAULT_ROUNDS") ?? 60);
  let same = 0, checked = 0;
  for (let round = 0; round < rounds; round++) {
    hub.faults.clear();
    const faults = Array.from({ length: 1 + Math.floor(random() * 5) }, () => ({
      ...makeFault(),
      ...pick<FaultMatch>([
        { on: "storage", path: SHARDS[0]! },
        { on: "storage", path: SHARDS[1]! },
        { on: "storage" },
        { on: "hub" },
        {},
      ]),
      skip: Math.floor(random() * 4),
      times: pick([1, 1, 1, 2, 4, 1000]),
    }));
    for (const fault of faults) hub.faults.add(fault);
    const maxDisk = pick([undefined, 1000, LARGEST, LARGEST + 5, 2 * LARGEST]);
    const shuffled = random() < 0.5;
    const about = `seed ${SEED}, round ${round}: ${JSON.stringify({ faults, maxDisk, shuffled })}`;
    const slow = Promise.withResolvers<never>();
    const timer = setTimeout(() => slow.reject(new Error(`No end after 30 s. ${about}`)), 30_000);
    const { digest, error } = await Promise.race([
      readModel(hub, {
        client: { idleTimeout: 100 },
        open: { downloads: pick([1, 2, 3]) },
        ...(maxDisk === undefined ? {} : { maxDisk }),
        order: (names) =>
          shuffled
            ? names.map((name) => [random(), name] as const).sort().map(([, name]) => name)
            : names,
      }),
      slow.promise,
    ]);
    clearTimeout(timer);
    // What is read by range alone is not checked, as an event says.
    const unchecked = (maxDisk ?? 0) < LARGEST && faults.some(({ kind }) => kind === "corrupt");
    if (error === undefined && !unchecked) {
      assert.equal(digest, GOLDEN, about);
      same++;
    } else if (error !== undefined) {
      assert.ok(
        error instanceof HubError || error instanceof CheckpointError,
        `${about}: ${describe(error)}`,
      );
    }
    checked++;
  }
  tellCases(checked);
  assert.ok(checked === rounds && same > rounds / 5, `${same} of ${rounds}, seed ${SEED}`);
});

Deno.test("resuming fetches only what is missing", async () => {
  await using hub = await startHub(FILES);
  const size = SHARDS.reduce((n, name) => n + shardBytes(name).length, 0);
  const clean = await readModel(hub, { maxDisk: LARGEST });
  const sent = () =>
    hub.log.filter(({ origin }) => origin === "storage").reduce((n, { sent }) => n + sent, 0);
  const cost = sent();
  assert.equal(clean.digest, GOLDEN);
  hub.log.length = 0;
  for (const path of SHARDS) {
    for (const at of [20_000, 40_000, 60_000]) {
      hub.faults.add({ kind: "cut", at, how: "close", on: "storage", path });
    }
  }
  assert.equal((await readModel(hub, { maxDisk: LARGEST })).digest, GOLDEN);
  // A cut body may be lost in buffers, which is what the allowance is for.
  assert.ok(sent() <= cost + 6 * 64 * 2 ** 10, `${sent()} bytes, ${cost} without cuts, of ${size}`);
  const starts = hub.log.filter(({ origin, range }) => origin === "storage" && range)
    .map(({ range }) => Number(/bytes=(\d+)/.exec(range!)![1]));
  assert.ok(starts.some((start) => start > 0), starts.join());
});

Deno.test("the staging folder never holds more than its budget, and nothing at the end", async () => {
  await using hub = await startHub(FILES);
  for (const maxDisk of [LARGEST, LARGEST + 1000, 2 * LARGEST]) {
    let held = 0, most = 0;
    const sizes = new Map<string, number>();
    const disk: Disk = {
      ...machine,
      create: (path, size) => {
        sizes.set(path, size);
        held += size;
        most = Math.max(most, held);
        return machine.create(path, size);
      },
      remove: async (path, options) => {
        await machine.remove(path, options);
        held -= sizes.get(path) ?? 0;
        sizes.delete(path);
      },
    };
    const { digest } = await readModel(hub, { maxDisk, open: { disk }, idle: true });
    assert.equal(digest, GOLDEN);
    assert.ok(most <= maxDisk && most >= LARGEST, `${most} of ${maxDisk}`);
    assert.equal(held, 0);
  }
});

/** A copy of `count` batches on a disk that writes down what it is given, when `gate` lets it. */
function copyOf(count: number, planned: readonly Span[], gate?: Promise<void>) {
  const written: number[] = [];
  const disk: Disk = {
    ...machine,
    create: () =>
      Promise.resolve({
        async write(offset) {
          await gate;
          written.push(offset);
        },
        sync: () => Promise.resolve(),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }),
  };
  const { signal } = new AbortController();
  const buffers = new BufferPool(BATCH);
  const copy = new Copy("copy", { size: count * BATCH, planned, disk, buffers, signal });
  const received = { batches: 0 };
  async function* chunks() {
    for (; received.batches < count; received.batches++) {
      yield await Promise.resolve(new Uint8Array(BATCH).fill(received.batches));
    }
  }
  return {
    copy,
    written,
    received,
    fill: () => copy.fill(chunks(), (batch) => Promise.resolve(batch)),
  };
}

Deno.test("a copy that nobody reads receives while some batches wait for the disk, and only some", async () => {
  const gate = Promise.withResolvers<void>();
  const size = 32 * BATCH;
  const { written, received, fill } = copyOf(32, [{ begin: 0, end: size }], gate.promise);
  const filling = fill();
  await new Promise((resolve) => setTimeout(resolve, 20));
  // The last of them is still being given.
  assert.equal(received.batches, WINDOW - 1);
  gate.resolve();
  await filling;
  assert.deepEqual(written, Array.from({ length: 32 }, (_, i) => i * BATCH));
});

Deno.test("what is read as it comes, and what nobody will read, never goes to the disk", async () => {
  const planned = { begin: BATCH / 2, end: 50 * BATCH + 1 };
  const { copy, written, fill } = copyOf(64, [planned]);
  const filling = fill();
  const target = new Uint8Array(planned.end - planned.begin);
  assert.equal(await copy.read(planned, target), target);
  await filling;
  for (let i = 0; i < target.length; i += BATCH / 4) {
    assert.equal(target[i], Math.floor((planned.begin + i) / BATCH));
  }
  assert.deepEqual(written, []);
  // It was not planned, and is not there.
  assert.equal(await copy.read({ begin: 0, end: 1 }), undefined);
});

Deno.test("any order of reading gives the same bytes, each file being fetched about once", async () => {
  await using hub = await startHub(FILES);
  const random = seeded(SEED);
  const orders: ((names: string[]) => string[])[] = [
    (names) => names.toReversed(),
    (names) => names.map((name) => [random(), name] as const).sort().map(([, name]) => name),
    // The first is wanted once more at the end, as an output head that is tied to the embedding.
    (names) => [...names, names[0]!],
    // A block that lies in two files.
    (names) => [...names.slice(0, 25), names[31]!, names[26]!, names[33]!, ...names],
  ];
  for (const [i, order] of orders.entries()) {
    for (const maxDisk of [LARGEST, 2 * LARGEST]) {
      hub.log.length = 0;
      const { digest, error } = await readModel(hub, { maxDisk, order });
      assert.equal(digest, GOLDEN, `order ${i}, seed ${SEED}: ${describe(error)}`);
      const size = SHARDS.reduce((n, name) => n + shardBytes(name).length, 0);
      const sent = hub.log.filter(({ origin }) => origin === "storage")
        .reduce((n, { sent }) => n + sent, 0);
      assert.ok(sent < (i === 1 && maxDisk === LARGEST ? 4 : 3) * size, `order ${i}: ${sent}`);
    }
  }
});

Deno.test("a shard larger than the budget is read by range, and an event says that its hash is not checked", async () => {
  await using hub = await startHub(FILES);
  const { digest, events } = await readModel(hub, { maxDisk: 1000 });
  assert.equal(digest, GOLDEN);
  const warnings = events.filter((event) => event.type === "warning");
  assert.deepEqual(warnings.map(({ code }) => code), ["hash-unchecked"]);
  assert.match(warnings[0]!.message, /2 of 2 weight files .*SHA-256 cannot be checked/);
  const plain = await readModel(hub);
  assert.equal(plain.events.filter((event) => event.type === "warning").length, 1);
});

Deno.test("a disk that is full stops the reading with its own error", async () => {
  await using hub = await startHub(FILES);
  const disk: Disk = {
    ...machine,
    create: async (path, size) => {
      const writer = await machine.create(path, size);
      return {
        ...writer,
        write: () => Promise.reject(new SpaceError("The disk is full.", { path })),
        [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
      };
    },
  };
  const { error } = await readModel(hub, { maxDisk: LARGEST, open: { disk }, idle: true });
  assert.ok(error instanceof SpaceError, describe(error));
});

Deno.test("a source that is closed in the middle ends its transfers and leaves nothing", async () => {
  await using hub = await startHub(FILES);
  const parent = await Deno.makeTempDir();
  for (const at of [0, 100, 30_000]) {
    hub.faults.clear();
    hub.faults.add({ kind: "cut", at, how: "stall", on: "storage", skip: 2, times: 99 });
    let reading: Promise<unknown>;
    {
      await using source = await openHub("org/model", {
        client: clientOf(hub, { idleTimeout: 60_000 }),
        stagingFolder: `${parent}/staging`,
        maxDisk: 2 * LARGEST,
      });
      const names = [...source.tensors.keys()];
      source.schedule!(names.map((name) => ({ name })));
      reading = source.read(names.at(-1)!);
      reading.catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
    await assert.rejects(reading, /The checkpoint was closed/);
    assert.deepEqual([...Deno.readDirSync(parent)], []);
  }
  await Deno.remove(parent);
});

Deno.test("a signal ends opening and reading at once, with its own reason", async () => {
  await using hub = await startHub(FILES);
  const parent = await Deno.makeTempDir();
  // Of the answers of the Hub, of the headers, of the tensors.
  for (const on of [{ on: "hub" }, { on: "storage" }, { on: "storage", skip: 2 }] as const) {
    for (const maxDisk of [0, 2 * LARGEST]) {
      hub.faults.clear();
      hub.faults.add({ kind: "cut", how: "stall", times: 99, ...on });
      const stop = new AbortController();
      const reading = async () => {
        await using source = await openHub("org/model", {
          client: clientOf(hub, { idleTimeout: 60_000 }),
          stagingFolder: `${parent}/staging`,
          maxDisk,
          largeSpan: 0,
          signal: stop.signal,
        });
        const names = [...source.tensors.keys()];
        source.schedule!(names.map((name) => ({ name })));
        for (const name of names) await source.read(name);
      };
      setTimeout(() => stop.abort(new RangeError("It was stopped.")), 50);
      await assert.rejects(reading(), /^RangeError: It was stopped\.$/);
      assert.deepEqual([...Deno.readDirSync(parent)], []);
    }
  }
  await Deno.remove(parent);
});

/** A cache as Python makes it: contents in `blobs`, links to them in `snapshots`. */
async function makeCache(
  folder: string,
  { commit, files }: {
    commit: string;
    files: Readonly<Record<string, Uint8Array<ArrayBuffer> | string>>;
  },
): Promise<void> {
  const home = `${folder}/models--org--model`;
  await Deno.mkdir(`${home}/blobs`, { recursive: true });
  await Deno.mkdir(`${home}/snapshots/${commit}`, { recursive: true });
  await Deno.mkdir(`${home}/refs`, { recursive: true });
  await Deno.writeTextFile(`${home}/refs/main`, commit);
  for (const [name, content] of Object.entries(files)) {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const blob = createHash("sha256").update(bytes).digest("hex");
    await Deno.writeFile(`${home}/blobs/${blob}`, bytes);
    await Deno.symlink(`../../blobs/${blob}`, `${home}/snapshots/${commit}/${name}`);
  }
}

Deno.test("the user's cache is read where it has a file, checked, and never written", async () => {
  await using hub = await startHub(FILES);
  const commit = hub.repo("org/model").head().sha;
  const cacheFolder = await Deno.makeTempDir();
  await makeCache(cacheFolder, { commit, files: FILES });
  const state = () =>
    [...Deno.readDirSync(`${cacheFolder}/models--org--model/blobs`)].map(({ name }) => name).sort();
  const before = state();
  for (const maxDisk of [0, LARGEST]) {
    hub.log.length = 0;
    const { digest, events, error } = await readModel(hub, { maxDisk, open: { cacheFolder } });
    assert.equal(digest, GOLDEN, describe(error));
    assert.deepEqual(events, []);
    assert.equal(hub.log.filter(({ origin }) => origin === "storage").length, 0);
  }
  assert.deepEqual(state(), before);
  // Half of it, and a file that was altered.
  await Deno.remove(`${cacheFolder}/models--org--model/snapshots/${commit}/${SHARDS[1]}`);
  const half = await readModel(hub, { maxDisk: LARGEST, open: { cacheFolder } });
  assert.equal(half.digest, GOLDEN);
  const path = await Deno.realPath(
    `${cacheFolder}/models--org--model/snapshots/${commit}/${SHARDS[0]}`,
  );
  const bytes = await Deno.readFile(path);
  bytes[bytes.length - 1]! ^= 1;
  await Deno.writeFile(path, bytes);
  const altered = await readModel(hub, { maxDisk: LARGEST, open: { cacheFolder } });
  assert.match(describe(altered.error), /SHA-256 is [0-9a-f]{64}, and the repository promises/);
  await Deno.remove(cacheFolder, { recursive: true });
});

Deno.test("offline, the cache is the model, and what it lacks is told", async () => {
  await using hub = await startHub(FILES);
  const commit = hub.repo("org/model").head().sha;
  const cacheFolder = await Deno.makeTempDir();
  await makeCache(cacheFolder, { commit, files: FILES });
  hub.log.length = 0;
  const offline = { offline: true };
  const { digest, error } = await (async () => {
    await using source = await openHub("org/model", {
      client: clientOf(hub, offline),
      cacheFolder,
    });
    assert.equal(source.id, `org/model@${commit}`);
    assert.equal(source.tensors.size, 60);
    return { digest: await source.read([...source.tensors.keys()][0]!), error: undefined };
  })();
  assert.ok(digest.length > 0 && error === undefined);
  const nowhere = await readModel(hub, { client: offline });
  assert.match(describe(nowhere.error), /HF_HUB_OFFLINE, and there is no cache folder/);
  await Deno.remove(`${cacheFolder}/models--org--model/snapshots/${commit}/${SHARDS[1]}`);
  const part = await readModel(hub, { client: offline, open: { cacheFolder } });
  assert.match(describe(part.error), /is not whole/);
  const other = await readModel(hub, { client: offline, open: { cacheFolder: "/nowhere" } });
  assert.match(describe(other.error), /does not have it/);
  assert.deepEqual(hub.log, []);
  await Deno.remove(cacheFolder, { recursive: true });
});

Deno.test("names in a repository that could lead out of a folder are never used", async () => {
  await using hub = await startHub(FILES);
  const paths = ["../x.txt", "/etc/x.txt", "a\\b.txt", "LICENSE\u0000", "%2e%2e/x.txt", "C:x.txt"];
  hub.faults.add({
    kind: "answer",
    path: "/tree/",
    times: 100,
    change: (answer) => {
      const list = JSON.parse(new TextDecoder().decode(answer.body as Uint8Array<ArrayBuffer>));
      for (const path of paths) {
        list.push({ type: "file", path, size: 3, oid: "0".repeat(40) });
      }
      return { ...answer, body: new TextEncoder().encode(JSON.stringify(list)) };
    },
  });
  const { digest } = await readModel(hub, { maxDisk: LARGEST });
  assert.equal(digest, GOLDEN);
  assert.ok(hub.log.every(({ path }) => path.startsWith("/") && !path.includes("x.txt")));
});

Deno.test("Uses tells what is next, what is left, and takes slices off what was planned", () => {
  const uses = new Uses([
    { file: "a", begin: 0, end: 100 },
    { file: "b", begin: 0, end: 10 },
    { file: "a", begin: 100, end: 150 },
    { file: "a", begin: 0, end: 100 },
    { file: "c", begin: 5, end: 5 },
  ]);
  assert.deepEqual(uses.files(), ["a", "b"]);
  assert.equal(uses.left("a"), 250);
  uses.consume({ file: "a", begin: 0, end: 40 });
  uses.consume({ file: "a", begin: 40, end: 100 });
  assert.deepEqual([uses.left("a"), uses.next("a"), uses.last("a")], [150, 2, 3]);
  assert.deepEqual(uses.files(), ["b", "a"]);
  assert.equal(uses.leftBefore("a", 3), 50);
  uses.consume({ file: "a", begin: 300, end: 400 });
  uses.consume({ file: "x", begin: 0, end: 1 });
  assert.equal(uses.left("a"), 150);
  uses.consume({ file: "b", begin: 0, end: 10 });
  assert.deepEqual([uses.next("b"), uses.last("b"), uses.left("b")], [Infinity, -1, 0]);
  assert.deepEqual(uses.spans("a").map(({ begin }) => begin), [100, 0]);
});
