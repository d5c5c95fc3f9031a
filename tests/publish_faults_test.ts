/**
 * Publishing through faults, each at every place: exactly one commit with the right files, or none
 * and a sentence. The cases have the names of the plan of faults: U1 parts, U2 the batch call, U3 the
 * commit, U4 making the repository, U5 files that change; N5 storms of refusals at every call, of which
 * SLUICE_FAULT_STEP under 4096 makes all.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { CheckpointError, HubError } from "../src/errors.ts";
import { publish } from "../src/publish.ts";
import { changedJson, expiredUrl, type Fault } from "./fake_hub/mod.ts";
import { tellCases } from "./hub_given.ts";
import {
  commitsOn,
  download,
  expected,
  NAME,
  refusal,
  requests,
  upload,
  withStage,
} from "./publish_given.ts";

const PARTS = 8;
/** The weights of the tiny checkpoint in eight parts. */
const PART_BYTES = 21_855;

/** What may become of a part, by what is said of it. */
const PART_FAULTS: Readonly<Record<string, Fault>> = {
  "is dropped at its first byte": { kind: "reset", after: 0 },
  "is dropped after 25 %": { kind: "reset", after: 0.25 * PART_BYTES },
  "is dropped after 50 %": { kind: "reset", after: 0.5 * PART_BYTES },
  "is dropped after 99 %": { kind: "reset", after: 0.99 * PART_BYTES },
  "comes, and the answer is lost": { kind: "lost" },
  "is answered 500": { kind: "status", status: 500 },
  "is answered 503 with Retry-After": {
    kind: "status",
    status: 503,
    headers: { "Retry-After": "2" },
  },
  "is answered 403, for its address has expired": expiredUrl(),
  "comes, and has no ETag": { kind: "answer", change: ({ status }) => ({ status }) },
  "comes, and has a wrong ETag": {
    kind: "answer",
    change: ({ status }) => ({ status, headers: { ETag: '"0"' } }),
  },
};

for (const [says, fault] of Object.entries(PART_FAULTS)) {
  Deno.test(`U1: each of eight parts ${says}`, () =>
    withStage(async (stage) => {
      const { hub, folder, options } = stage;
      const { size } = await Deno.stat(join(folder, "model.safetensors"));
      assert.equal(Math.ceil(size / PART_BYTES), PARTS);
      for (let part = 1; part <= PARTS; part++) {
        const path = new RegExp(`^/upload/.*/${part}[?]`);
        const active = hub.faults.add({ ...fault, on: "storage", method: "PUT", path });
        await publish(folder, NAME, options);
        assert.equal(active.hits, 1);
        assert.equal(commitsOn(hub), 1);
        assert.deepEqual(await download(stage), await expected(folder));
        hub.remove(NAME);
      }
      tellCases(PARTS);
    }, { partBytes: PART_BYTES }));
}

/** Calls of an upload that storms come to. */
const CALLS = ["whoami", "repos/create", "preupload", "objects/batch", "/upload/"]
  .concat(["complete_multipart", "objects/verify", "/commit/"]);
/** Whether there are as many storms as the plan of faults has. */
const FINER = Number(Deno.env.get("SLUICE_FAULT_STEP") ?? 4096) < 4096;
const STORMS: readonly Fault[] = [
  { kind: "status", status: 429, headers: { "Retry-After": "3" } },
  { kind: "status", status: 503 },
  { kind: "status", status: 429, headers: { "Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT" } },
  { kind: "status", status: 429, headers: { RateLimit: '"api";r=0;t=55' } },
  { kind: "status", status: 429 },
  ...[408, 500, 502, 504].map((status): Fault => ({ kind: "status", status })),
];

for (const path of CALLS) {
  Deno.test(`N5: storms of refusals that pass are sat out, longer ones are told, at ${path}`, () =>
    withStage(async (stage) => {
      const { hub, folder, options } = stage;
      let cases = 0;
      for (const storm of FINER ? STORMS : STORMS.slice(0, 2)) {
        for (const times of FINER ? [1, 3, 5, 1000] : [3, 1000]) {
          const about = `${JSON.stringify(storm)} ${times} times`;
          const active = hub.faults.add({ ...storm, path, times });
          const [result] = await Promise.allSettled([publish(folder, NAME, options)]);
          assert.ok(active.hits > 0, about);
          if (result.status === "rejected") {
            assert.ok(times > 1 && result.reason instanceof HubError, `${about}: ${result.reason}`);
            assert.match(result.reason.message, /[a-z0-9)]\. [A-Z][^.]+\.?.*\.$/s);
            hub.faults.clear();
            await publish(folder, NAME, options);
          } else {
            assert.ok(times < 1000, about);
          }
          hub.faults.clear();
          assert.equal(commitsOn(hub), 1, about);
          assert.deepEqual(await download(stage), await expected(folder), about);
          hub.remove(NAME);
          cases++;
        }
      }
      tellCases(cases);
    }, { partBytes: PART_BYTES }));
}

type Said = Record<string, unknown> & { objects: { oid: string; size: number }[] };

/** Answers of the batch call that are refused, by what is said of them. */
const BATCH_LIES: Readonly<Record<string, (said: Said) => unknown>> = {
  "does not take an object": (said) => ({
    ...said,
    objects: said.objects.map(({ oid, size }) => ({ oid, size, error: { code: 422 } })),
  }),
  "answers for fewer objects": (said) => ({ ...said, objects: [] }),
  "answers for another object": (said) => ({
    ...said,
    objects: said.objects.map((object) => ({ ...object, oid: "0".repeat(64) })),
  }),
  "gives too few addresses": (said) => upload(said, { header: { chunk_size: 9, "00001": "x:" } }),
  "names a way that is not known": (said) => ({ ...said, transfer: "xet" }),
  "gives parts without their size": (said) => upload(said, { header: { "00001": "http://x/" } }),
};

for (const [says, change] of Object.entries(BATCH_LIES)) {
  Deno.test(`U2: the batch call ${says}`, () =>
    withStage(async ({ hub, folder, options }) => {
      hub.faults.add({ ...changedJson(change), path: "objects/batch" });
      await refusal(HubError, publish(folder, NAME, options));
      assert.equal(commitsOn(hub), 0);
      assert.equal(requests(hub, "PUT", /./), 0);
    }, { partBytes: PART_BYTES }));
}

Deno.test("U2: the Hub has an object already", () =>
  withStage(async (stage) => {
    const { hub, folder, options } = stage;
    hub.faults.add({ kind: "status", status: 400, path: "/commit/" });
    await refusal(HubError, publish(folder, NAME, options));
    assert.equal(requests(hub, "PUT", /./), PARTS);
    await publish(folder, NAME, options);
    assert.equal(requests(hub, "PUT", /./), PARTS);
    assert.equal(commitsOn(hub), 1);
    assert.deepEqual(await download(stage), await expected(folder));
  }, { partBytes: PART_BYTES }));

/** What may become of a commit, how often, and how many commits there are then. */
const COMMIT_FAULTS: Readonly<
  Record<string, { readonly fault: Fault; readonly times?: number; readonly commits: 0 | 1 }>
> = {
  "is made, and the answer is lost": { fault: { kind: "lost" }, commits: 1 },
  "is made, and answered 504": { fault: { kind: "lost", status: 504 }, commits: 1 },
  "is answered 504 and not made": { fault: { kind: "status", status: 504 }, commits: 1 },
  "is answered 500 three times": { fault: { kind: "status", status: 500 }, times: 3, commits: 1 },
  "is answered 412": { fault: { kind: "status", status: 412 }, commits: 0 },
  "is answered 409": { fault: { kind: "status", status: 409 }, commits: 0 },
  "is answered 413": { fault: { kind: "status", status: 413 }, commits: 0 },
  "is answered 400, for an object is missing": {
    fault: { kind: "status", status: 400, body: '{"error":"LFS pointer pointed to nothing"}' },
    commits: 0,
  },
};

for (const [says, { fault, times = 1, commits }] of Object.entries(COMMIT_FAULTS)) {
  for (const where of ["a new repository", "one that is there", "a new branch"]) {
    Deno.test(`U3: a commit to ${where} ${says}`, () =>
      withStage(async (stage) => {
        const { hub, folder, options } = stage;
        const branch = where === "a new branch" ? "other" : "main";
        const before = where === "a new repository" ? 0 : commitsOn(hub, "main");
        const active = hub.faults.add({ ...fault, times, path: "/commit/", method: "POST" });
        const act = publish(folder, NAME, { ...options, branch });
        if (commits === 0) await refusal(HubError, act);
        else await act;
        assert.equal(active.hits, times);
        const empty = branch === "main" ? 0 : 1;
        assert.equal(commitsOn(hub, branch), before + empty + commits);
        // Whatever happened, once more makes it one.
        const { unchanged } = await publish(folder, NAME, { ...options, branch });
        assert.equal(unchanged, commits === 1);
        assert.equal(commitsOn(hub, branch), before + empty + 1);
        assert.deepEqual(await download(stage, branch), await expected(folder));
      }, where === "a new repository" ? {} : { repos: { [NAME]: {} } }));
  }
}

/** What the Hub may say to who makes a repository. */
const CREATE_FAULTS: Readonly<Record<string, { readonly fault: Fault; readonly says: RegExp }>> = {
  "someone else was faster": {
    fault: { kind: "status", status: 409, body: '{"error":"You already created this repo"}' },
    says: /already created/,
  },
  "it asks for payment": { fault: { kind: "status", status: 402 }, says: /payment/ },
  "the token may not": { fault: { kind: "status", status: 403 }, says: /forbids/ },
  "the token is none": { fault: { kind: "status", status: 401 }, says: /does not know your token/ },
  "it is at work there for long": {
    fault: {
      kind: "status",
      status: 409,
      body: '{"error":"Cannot create repo: another conflicting operation is in progress"}',
    },
    says: /is at work on a repository of that name, \d times/,
  },
};

for (const [title, { fault, says }] of Object.entries(CREATE_FAULTS)) {
  Deno.test(`U4: no repository is made: ${title}`, () =>
    withStage(async ({ hub, folder, options }) => {
      hub.faults.add({ ...fault, path: "repos/create", times: Infinity });
      const { message } = await refusal(HubError, publish(folder, NAME, options));
      assert.match(message, says);
      assert.equal(requests(hub, "PUT", /./) + requests(hub, "POST", /preupload|commit/), 0);
    }));
}

Deno.test("U4: a repository is made once the Hub is no longer at work there", () =>
  withStage(async ({ hub, folder, options }) => {
    const { fault } = CREATE_FAULTS["it is at work there for long"]!;
    hub.faults.add({ ...fault, path: "repos/create", times: 2 });
    await publish(folder, NAME, options);
    assert.equal(commitsOn(hub), 1);
  }));

Deno.test("U4: a repository that is gated and private takes a commit of its owner", () =>
  withStage(async (stage) => {
    const { hub, folder, options } = stage;
    await publish(folder, NAME, options);
    assert.equal(commitsOn(hub), 1);
    assert.deepEqual(await download(stage), await expected(folder));
  }, { repos: { [NAME]: { files: {}, private: true, gated: "manual" } } }));

/** What may become of a file while it is read. */
const CHANGES: Readonly<Record<string, (path: string, bytes: Uint8Array) => void>> = {
  "is cut off": (path) => Deno.truncateSync(path, 1000),
  "grows": (path) => Deno.writeFileSync(path, new Uint8Array(9), { append: true }),
  "gets other bytes": (path, bytes) => Deno.writeFileSync(path, bytes.fill(7)),
  "is touched": (path) => Deno.utimeSync(path, 1, 1),
};

for (const [says, change] of Object.entries(CHANGES)) {
  for (const when of ["hashing", "uploading"] as const) {
    Deno.test(`U5: a file ${says} while it is read for ${when}`, () =>
      withStage(async ({ hub, folder, options }) => {
        const path = join(folder, "model.safetensors");
        const bytes = await Deno.readFile(path);
        let changed = false;
        const act = publish(folder, NAME, {
          ...options,
          report({ type }) {
            if (type !== when || changed) return;
            changed = true;
            change(path, bytes);
          },
        });
        const { message } = await refusal(CheckpointError, act);
        assert.match(message, /changed while it was in use/);
        assert.equal(commitsOn(hub), 0);
      }, { partBytes: PART_BYTES }));
  }
}
