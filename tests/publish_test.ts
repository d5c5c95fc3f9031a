/**
 * Publishing to the fake Hub: the whole way, what is refused before anything is sent, and every
 * fault on the way.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { referenceBackend } from "../src/backends/reference.ts";
import { CheckpointError, HubError, RequestError } from "../src/errors.ts";
import { modelCard } from "../src/publish/model_card.ts";
import { checkPublish, planPublish, publish, type PublishEvent } from "../src/publish.ts";
import { FileBlob } from "../src/publish/file_blob.ts";
import { disk } from "../src/io/disk.ts";
import {
  changedJson,
  expiredUrl,
  type FakeHub,
  rateLimited,
  READ_TOKEN,
  startFakeHub,
  STRANGER_TOKEN,
  TOKEN,
  type TokenInfo,
} from "./fake_hub/mod.ts";
import { heldBytes } from "./memory.ts";
import {
  CARD,
  commitsOn,
  download,
  expected,
  hashesOf,
  IN_PARTS,
  NAME,
  refusal,
  requests,
  sha256,
  upload,
  verifyFolder,
  withStage,
} from "./publish_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

Deno.test("publish() puts the whole folder and a card into a new private repository, in one commit", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options, events } = stage;
    const plan = await planPublish(folder, NAME, options);
    assert.equal(hub.log.every(({ method }) => method === "GET"), true);
    assert.equal(plan.newRepo, true);
    assert.equal(plan.visibility, "private");
    assert.equal(plan.url, `${hub.endpoint}/${NAME}`);
    assert.deepEqual(plan.files.map(({ path }) => path), [
      "README.md",
      "additional_chat_templates/a b#c.jinja",
      "config.json",
      "model.safetensors",
      "tokenizer.json",
    ]);
    const report = await publish(folder, NAME, { ...options, plan });
    assert.deepEqual(await download(stage), await expected(folder));
    assert.equal(hub.repo(NAME).settings.private, true);
    assert.equal(commitsOn(hub), 1);
    assert.equal(report.commit, hub.repo(NAME).head().sha);
    assert.equal(report.created, true);
    assert.equal(report.unchanged, false);
    assert.equal(report.pullRequestUrl, undefined);
    assert.equal(report.bytes, plan.bytes);
    assert.equal(requests(hub, "POST", /lfs\/objects\/verify$/), 1);
    const uploading = events.filter((event) => event.type === "uploading");
    assert.deepEqual(uploading.at(-1), { type: "uploading", done: plan.bytes, total: plan.bytes });
    for (const [i, { done }] of uploading.entries()) {
      assert.ok(done > (uploading[i - 1]?.done ?? 0));
    }
    assert.deepEqual(events.at(-1), { type: "published", report });
    const hashed = events.filter((event) => event.type === "hashing").at(-1);
    const size = plan.files.find(({ path }) => path === "model.safetensors")!.size;
    assert.deepEqual(hashed, {
      type: "hashing",
      path: "model.safetensors",
      done: size,
      total: size,
    });
  });
});

Deno.test("publish() verifies first, and sends nothing of a checkpoint that is damaged", async () => {
  await withStage(async ({ hub, folder, options: { verified: _, card: __, ...options } }) => {
    const path = join(folder, "model.safetensors");
    const bytes = await Deno.readFile(path);
    await using backend = referenceBackend();
    await Deno.writeFile(path, bytes.subarray(0, bytes.length - 1));
    await refusal(CheckpointError, publish(folder, NAME, { ...options, backend }));
    assert.equal(hub.log.length, 0);
    await Deno.writeFile(path, bytes);
    await publish(folder, NAME, { ...options, backend });
    const readme = hub.repo(NAME).head().files.get("README.md");
    assert.ok(readme);
    await assert.rejects(publish(folder, NAME, options), /give a verification, or a backend/);
  });
});

Deno.test("publish() writes a card from the verification where the folder has none, and keeps the one it has", async () => {
  await withStage(async (stage) => {
    const { folder, options: { card: _, ...options } } = stage;
    await publish(folder, NAME, options);
    const { "README.md": written } = await download(stage);
    const facts = { name: NAME, architecture: "LlamaForCausalLM", schemes: [] };
    const { bytes, loaders } = options.verified!;
    const files = Object.entries(await hashesOf(folder)).map(([path, sha256]) => ({
      path,
      size: Deno.statSync(join(folder, path)).size,
      sha256,
    })).sort((a, b) => a.path < b.path ? -1 : 1);
    assert.equal(written, sha256(modelCard({ ...facts, bytes, loaders, files })));
    assert.match(
      modelCard({ ...facts, bytes, files }),
      /\| `model\.safetensors` \| \d+ kB \| `[0-9a-f]{64}` \|/,
    );
    await Deno.writeTextFile(join(folder, "README.md"), "---\ntags: [sluice]\n---\nMine.\n");
    const plan = await planPublish(folder, NAME, options);
    assert.equal(plan.made.size, 0);
    assert.deepEqual(plan.overwritten, ["README.md"]);
    await publish(folder, NAME, { ...options, plan });
    assert.equal((await download(stage))["README.md"], (await hashesOf(folder))["README.md"]);
  });
});

Deno.test("publish() makes a public repository when told, and leaves the visibility of one that is there", async () => {
  await withStage(async ({ hub, folder, options }) => {
    await publish(folder, NAME, { ...options, visibility: "public" });
    assert.equal(hub.repo(NAME).settings.private, false);
    const plan = await planPublish(folder, NAME, options);
    assert.equal(plan.visibility, "public");
    const { message } = await refusal(
      RequestError,
      planPublish(folder, NAME, { ...options, visibility: "private" }),
    );
    assert.match(message, /as private: it is there already, and public\. .*leave `private` off/);
  });
});

Deno.test("publish() sends nothing again that the Hub has, and makes no empty commit", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const first = await publish(folder, NAME, options);
    const puts = requests(hub, "PUT", /./);
    const second = await publish(folder, NAME, options);
    assert.equal(second.unchanged, true);
    assert.equal(second.commit, first.commit);
    assert.equal(requests(hub, "PUT", /./), puts);
    assert.equal(commitsOn(hub), 1);
  });
});

Deno.test("publish() updates what Sluice published before, and refuses to leave old weights beside new ones", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    await publish(folder, NAME, options);
    await Deno.writeTextFile(join(folder, "tokenizer.json"), "{}");
    const plan = await planPublish(folder, NAME, options);
    assert.equal(plan.ours, true);
    assert.deepEqual(plan.overwritten, ["tokenizer.json"]);
    await publish(folder, NAME, { ...options, plan });
    assert.deepEqual(await download(stage), await expected(folder));
    assert.equal(commitsOn(hub), 2);
    hub.repo(NAME).commit({ files: { "model-00001-of-00002.safetensors": "old" } });
    const { message } = await refusal(RequestError, planPublish(folder, NAME, options));
    assert.match(message, /weights that would stay beside these \("model-00001-of-00002/);
  });
});

Deno.test("publish() refuses a repository with files of others; --force writes over them and deletes nothing", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    const sent = () => hub.log.filter(({ method }) => method !== "GET").length;
    const other = await refusal(RequestError, publish(folder, NAME, options));
    assert.match(
      other.message,
      /^Cannot publish to "me\/tiny": it has files that Sluice did not write and that would be written over \("config\.json"\)\. Give another name/,
    );
    hub.repo(NAME).commit({ deleted: ["config.json"] });
    const beside = await refusal(RequestError, publish(folder, NAME, options));
    assert.match(beside.message, /files that Sluice did not write \("notes\.txt"\)/);
    assert.equal(sent(), 0);
    const plan = await planPublish(folder, NAME, { ...options, force: true });
    assert.deepEqual(plan.left, ["notes.txt"]);
    await publish(folder, NAME, { ...options, plan });
    assert.deepEqual(await download(stage), {
      ...await expected(folder),
      "notes.txt": sha256("theirs"),
    });
  }, { repos: { [NAME]: { "config.json": "{}", "notes.txt": "theirs" } } });
});

Deno.test("publish() to a new branch makes it empty and leaves main alone", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    const before = hub.repo(NAME).head().sha;
    const plan = await planPublish(folder, NAME, { ...options, branch: "w4/g64" });
    assert.equal(plan.newBranch, true);
    await publish(folder, NAME, { ...options, plan });
    assert.deepEqual(await download(stage, "w4/g64"), await expected(folder));
    assert.equal(hub.repo(NAME).head().sha, before);
    const again = await planPublish(folder, NAME, { ...options, branch: "w4/g64" });
    assert.equal(again.newBranch, false);
    assert.deepEqual(again.overwritten, []);
    for (const branch of ["a..b", "refs/pr/1", "x y", ""]) {
      await refusal(RequestError, planPublish(folder, NAME, { ...options, branch }));
    }
  }, { repos: { [NAME]: { "notes.txt": "theirs" } } });
});

Deno.test("publish() into a repository that is not there can begin on a branch", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    await publish(folder, NAME, { ...options, branch: "int4" });
    assert.deepEqual(await download(stage, "int4"), await expected(folder));
    assert.deepEqual([...hub.repo(NAME).head().files.keys()], [".gitattributes"]);
  });
});

Deno.test("publish() opens a pull request, also to files of others, and says where it is", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    const before = hub.repo(NAME).head().sha;
    const report = await publish(folder, NAME, { ...options, pullRequest: true });
    assert.equal(report.pullRequestUrl, `${hub.endpoint}/${NAME}/discussions/1`);
    assert.equal(hub.repo(NAME).head().sha, before);
    const files = hub.repo(NAME).head("refs/pr/1").files;
    assert.deepEqual([...files.keys()], [
      "README.md",
      "additional_chat_templates/a b#c.jinja",
      "config.json",
      "model.safetensors",
      "tokenizer.json",
    ]);
    const missing = planPublish(folder, "me/none", { ...options, pullRequest: true });
    assert.match((await refusal(RequestError, missing)).message, /there is no such repository/);
  }, { repos: { [NAME]: { "config.json": "{}" } } });
});

Deno.test("publish() refuses without a token, with one that may only read, and with a stranger's", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const as = (token: string | undefined) =>
      publish(folder, NAME, { ...options, hub: { ...options.hub, token } });
    const none = await refusal(HubError, as(undefined));
    assert.match(
      none.message,
      /there is no token\. Make one that may write at .*\/settings\/token/,
    );
    const reader = await refusal(HubError, as(READ_TOKEN));
    assert.equal(reader.kind, "forbidden");
    assert.match(
      reader.message,
      /^Cannot publish to "me\/tiny": your token may only read\. Make one/,
    );
    const wrong = await refusal(HubError, as("hf_nobody_knows_this"));
    assert.equal(wrong.kind, "unauthorized");
    const stranger = await refusal(HubError, as(STRANGER_TOKEN));
    assert.equal(stranger.kind, "forbidden");
    assert.match(
      stranger.message,
      /^Cannot publish to "me\/tiny": "me" is neither the account of your token, "stranger", nor an organisation of it\. Publish to "stranger\/…"/,
    );
    for (const { message } of [none, reader, wrong, stranger]) {
      assert.doesNotMatch(message, /hf_(?:test|nobody)/);
    }
    assert.equal(requests(hub, "PUT", /./), 0);
  });
});

Deno.test("checkPublish() compares the namespace with the rights of the token, and asks nothing but who it is", async () => {
  const orgs = ["acme", "beta"];
  const tokens: Record<string, TokenInfo> = {
    hf_t_member: { user: "ann", role: "write", orgs, readOnly: ["beta"] },
    hf_t_fine: { user: "ann", role: "fineGrained", orgs, grants: ["acme", "ann/one"] },
    hf_t_none: { user: "ann", role: "fineGrained", orgs },
  };
  const cases: [token: string, repo: string, refusal?: RegExp][] = [
    ["hf_t_member", "ann/x"],
    ["hf_t_member", "Ann/x"],
    ["hf_t_member", "acme/x"],
    ["hf_t_member", "beta/x", /"ann" may only read in the organisation "beta"\. Ask its owners/],
    [
      "hf_t_member",
      "gamma/x",
      /"gamma" is neither .* "ann", nor one of its organisations, "acme", "beta"\. Publish to "ann\/…"/,
    ],
    ["hf_t_fine", "acme/x"],
    ["hf_t_fine", "ann/one"],
    ["hf_t_fine", "ann/two", /your token may not write in "ann": it is fine-grained/],
    ["hf_t_fine", "beta/x", /your token may not write in "beta"/],
    ["hf_t_none", "ann/x", /your token may not write in "ann"/],
  ];
  await withStage(async ({ hub, options }) => {
    for (const [token, repo, says] of cases) {
      const asked = checkPublish(repo, { ...options, hub: { ...options.hub, token } });
      if (!says) {
        await asked;
        continue;
      }
      const before = hub.log.length;
      const { kind, message } = await refusal(HubError, asked);
      assert.equal(kind, "forbidden");
      assert.match(message, says);
      assert.deepEqual(
        hub.log.slice(before).map(({ method, path }) => `${method} ${path}`),
        ["GET /api/whoami-v2"],
      );
    }
  }, { tokens });
});

Deno.test("checkPublish() takes names alone, and asks nothing of the Hub for others", async () => {
  await withStage(async ({ hub, options }) => {
    const before = hub.log.length;
    for (const name of ["hf://me/tiny", "https://huggingface.co/me/tiny", "me/tiny@main", "tiny"]) {
      const { message } = await refusal(RequestError, checkPublish(name, options));
      assert.match(message, /say where on the Hub, as org\/name/);
    }
    assert.equal(hub.log.length, before);
  });
});

Deno.test("a proposal needs no rights in the namespace, and what the Hub does not say is no refusal", async () => {
  await withStage(async ({ hub, options }) => {
    const as = (repo: string, more = {}) =>
      checkPublish(repo, { ...options, ...more, hub: { ...options.hub, token: STRANGER_TOKEN } });
    await as(NAME, { pullRequest: true });
    for (
      const change of [
        (said: Record<string, unknown>) => ({ ...said, orgs: undefined }),
        (said: Record<string, unknown>) => ({ ...said, name: undefined }),
        (said: Record<string, unknown>) => ({
          ...said,
          orgs: [{ name: "me", roleInOrg: "read", resourceGroups: [{ role: "write" }] }],
        }),
      ]
    ) {
      hub.faults.add({ ...changedJson(change), path: "/api/whoami-v2" });
      await as("me/new");
    }
  }, { repos: { [NAME]: {} } });
});

Deno.test("publish() refuses names that are none, folders that are none, and says the new name of a renamed repository", async () => {
  await withStage(async ({ hub, folder, options }) => {
    for (const name of ["tiny", "a/b/c", "a/b@main", "../x", "me/a..b", "me/x y", ""]) {
      await refusal(RequestError, planPublish(folder, name, options));
    }
    await refusal(RequestError, planPublish(join(folder, "none"), NAME, options));
    await refusal(RequestError, planPublish(join(folder, "config.json"), NAME, options));
    hub.rename("me/old", "me/new");
    const moved = await refusal(RequestError, planPublish(folder, "me/old", options));
    assert.match(moved.message, /it is now "me\/new"\. Use the new name/);
  }, { repos: { "me/old": {} } });
});

Deno.test("files whose names begin with a dot stay, and links that lead out of the folder are refused", async () => {
  await withStage(async ({ folder, options }) => {
    await Deno.writeTextFile(join(folder, ".env"), "SECRET=1");
    await Deno.mkdir(join(folder, ".git"));
    const plan = await planPublish(folder, NAME, options);
    assert.deepEqual(plan.skipped, [".env", ".git"]);
    assert.ok(plan.files.every(({ path }) => !path.startsWith(".")));
    const outside = await Deno.makeTempDir();
    await Deno.writeTextFile(join(outside, "id_rsa"), "key");
    await Deno.symlink(join(outside, "id_rsa"), join(folder, "vocab.json"));
    await refusal(CheckpointError, planPublish(folder, NAME, options));
    await Deno.remove(join(folder, "vocab.json"));
    await Deno.mkdir(join(outside, "templates"));
    await Deno.symlink(join(outside, "templates"), join(folder, "templates"));
    await refusal(RequestError, planPublish(folder, NAME, options));
    await Deno.remove(outside, { recursive: true });
  });
});

Deno.test("a large file goes up in parts, and each is sent once", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    await publish(folder, NAME, options);
    assert.deepEqual(await download(stage), await expected(folder));
    const { size } = await Deno.stat(join(folder, "model.safetensors"));
    assert.equal(requests(hub, "PUT", /^\/upload\//), Math.ceil(size / 2 ** 16));
    assert.equal(requests(hub, "POST", /lfs\/objects\/verify$/), 1);
  }, IN_PARTS);
});

for (
  const [how, fault] of Object.entries({
    "a 500": { kind: "status", status: 500 },
    "a 503 with Retry-After": { kind: "status", status: 503, headers: { "Retry-After": "3" } },
    "a reset": { kind: "reset" },
    "a lost answer": { kind: "lost" },
  }) as [string, Parameters<FakeHub["faults"]["add"]>[0]][]
) {
  for (const [kind, hubOptions] of [["whole", {}], ["in parts", IN_PARTS]] as const) {
    Deno.test(`${how} on the upload of a large file (${kind}) is made up for with the same bytes`, async () => {
      await withStage(async (stage) => {
        const { hub, folder, options, events } = stage;
        hub.faults.add({ ...fault, on: "storage", method: "PUT", times: 2 });
        const { bytes } = await publish(folder, NAME, options);
        assert.deepEqual(await download(stage), await expected(folder));
        assert.equal(commitsOn(hub), 1);
        const uploading = events.filter((event) => event.type === "uploading");
        assert.equal(uploading.at(-1)?.done, bytes);
      }, hubOptions);
    });
  }
}

Deno.test("every call of an upload may fail once and be made again", async () => {
  const calls = ["whoami", `/api/models/${NAME}`, "preupload", "objects/batch", "objects/verify"];
  calls.push("repos/create", "/commit/", "/tree/", "complete_multipart");
  for (const path of calls) {
    for (const kind of ["reset", "lost"] as const) {
      await withStage(async (stage) => {
        const { hub, folder, options } = stage;
        const active = hub.faults.add({ kind, on: "hub", path });
        await publish(folder, NAME, options);
        assert.equal(active.hits, 1, `${kind} ${path}`);
        assert.deepEqual(await download(stage), await expected(folder));
        assert.equal(commitsOn(hub), 1, `${kind} ${path}`);
      }, IN_PARTS);
    }
  }
});

Deno.test("a limit of requests is obeyed to the second the Hub names", async () => {
  for (const [path, method] of [["/commit/", "POST"], ["objects/batch", "POST"]] as const) {
    await withStage(async ({ hub, folder, options, waits }) => {
      hub.faults.add({ ...rateLimited({ resetSeconds: 7, bucket: "api" }), path, method });
      hub.faults.add({ ...rateLimited({ retryAfter: 11 }), path, method });
      await publish(folder, NAME, options);
      assert.deepEqual(waits, [8000, 11_000]);
      assert.equal(commitsOn(hub), 1);
    });
  }
});

Deno.test("two files with the same bytes are both published", async () => {
  for (const hubOptions of [{}, IN_PARTS]) {
    await withStage(async (stage) => {
      const { folder, options, events } = stage;
      await Deno.copyFile(join(folder, "model.safetensors"), join(folder, "same.bin"));
      const { bytes } = await publish(folder, NAME, options);
      assert.deepEqual(await download(stage), await expected(folder));
      assert.equal(events.filter((event) => event.type === "uploading").at(-1)?.done, bytes);
    }, hubOptions);
  }
});

Deno.test("storage that no longer takes its addresses is asked for fresh ones", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options, events } = stage;
    hub.faults.add({ ...expiredUrl(), on: "storage", method: "PUT", skip: 2 });
    const { bytes } = await publish(folder, NAME, options);
    assert.deepEqual(await download(stage), await expected(folder));
    assert.equal(requests(hub, "POST", /objects\/batch$/), 2);
    assert.equal(events.filter((event) => event.type === "uploading").at(-1)?.done, bytes);
    hub.remove(NAME);
    hub.faults.add({ ...expiredUrl(), on: "storage", method: "PUT", times: Infinity });
    const { message, status } = await refusal(HubError, publish(folder, NAME, options));
    assert.equal(status, 403);
    assert.doesNotMatch(message, /Signature|Expires/);
  }, IN_PARTS);
});

Deno.test("a commit whose answer is lost, or which is answered 504 after all, happens once", async () => {
  for (const fault of [{ kind: "lost" }, { kind: "lost", status: 504 }] as const) {
    await withStage(async (stage) => {
      const { hub, folder, options } = stage;
      hub.faults.add({ ...fault, path: "/commit/" });
      const { commit } = await publish(folder, NAME, options);
      assert.equal(commit, hub.repo(NAME).head().sha);
      assert.equal(commitsOn(hub), 1);
      assert.equal(requests(hub, "POST", /\/commit\//), 1);
    });
  }
});

Deno.test("a commit that the server could not make is made again, and given up in the end", async () => {
  await withStage(async ({ hub, folder, options, waits }) => {
    const fault = hub.faults.add({ kind: "status", status: 500, path: "/commit/", times: 3 });
    await publish(folder, NAME, options);
    assert.equal(fault.hits, 3);
    assert.deepEqual(waits, [500, 1000, 2000]);
    assert.equal(commitsOn(hub), 1);
    hub.remove(NAME);
    hub.faults.add({ kind: "status", status: 500, path: "/commit/", times: Infinity });
    assert.equal((await refusal(HubError, publish(folder, NAME, options))).kind, "server");
    assert.equal(commitsOn(hub), 0);
  });
});

Deno.test("a commit of someone else in between is not written over", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const plan = await planPublish(folder, NAME, { ...options, force: true });
    const theirs = hub.repo(NAME).commit({ files: { "config.json": "theirs" } });
    const between = await refusal(HubError, publish(folder, NAME, { ...options, plan }));
    assert.equal(between.kind, "conflict");
    assert.match(between.message, /someone else changed the repository meanwhile/);
    assert.equal(hub.repo(NAME).head().sha, theirs.sha);
    const fault = hub.faults.add({
      kind: "answer",
      path: "/commit/",
      change: (answer) => {
        hub.repo(NAME).commit({ files: { "other.txt": "theirs" } });
        return { ...answer, status: 504 };
      },
    });
    // Ours went in, theirs came after it, and our answer was lost: all our files are at the head.
    const late = await publish(folder, NAME, { ...options, force: true });
    assert.equal(fault.hits, 1);
    assert.equal(late.commit, hub.repo(NAME).head().sha);
  }, { repos: { [NAME]: { "config.json": "{}" } } });
});

Deno.test("a pull request whose answer is lost is not opened twice, and the message says where to look", async () => {
  await withStage(async ({ hub, folder, options }) => {
    hub.faults.add({ kind: "lost", path: "/commit/" });
    const { message } = await refusal(
      HubError,
      publish(folder, NAME, { ...options, pullRequest: true }),
    );
    assert.match(
      message,
      /Whether the pull request was opened is not known: look at http.*\/discuss/,
    );
    assert.equal(requests(hub, "POST", /\/commit\//), 1);
    assert.equal(hub.repo(NAME).refs.has("refs/pr/2"), false);
  }, { repos: { [NAME]: {} } });
});

Deno.test("a repository that appears between plan and publishing is not taken for ours", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const plan = await planPublish(folder, NAME, options);
    const body = JSON.stringify({ error: "You already created this model repo" });
    hub.faults.add({ kind: "status", status: 409, path: "repos/create", body });
    const { kind, message } = await refusal(HubError, publish(folder, NAME, { ...options, plan }));
    assert.equal(kind, "conflict");
    assert.match(message, /^Cannot make the repository "me\/tiny": .*already created/);
  });
});

Deno.test("answers that are not what the protocol says are refused, whichever call gives them", async () => {
  const lies: [path: string, change: (said: Record<string, unknown>) => unknown][] = [
    ["preupload", ({ files }) => ({ files: (files as unknown[]).slice(1) })],
    ["preupload", () => []],
    ["objects/batch", (said) => ({ ...said, objects: [] })],
    ["objects/batch", (said) => ({ ...said, transfer: "xet" })],
    ["objects/batch", (said) => ({ ...said, objects: [{ oid: "0".repeat(64), size: 1 }] })],
    ["objects/batch", (said) => upload(said, { href: "ftp://example.com/x" })],
    ["objects/batch", (said) => upload(said, { href: "http://me:pw@127.0.0.1:1/x" })],
    ["objects/batch", (said) => upload(said, { header: { chunk_size: "1000", "00001": "x" } })],
    ["objects/batch", (said) => upload(said, { header: { chunk_size: "many" } })],
    ["/commit/", () => ({ success: true })],
    ["whoami", () => "me"],
  ];
  for (const [path, change] of lies) {
    await withStage(async ({ hub, folder, options }) => {
      hub.faults.add({
        kind: "answer",
        path,
        change: (answer) => {
          const said = JSON.parse(new TextDecoder().decode(answer.body as Uint8Array));
          return { ...answer, body: new TextEncoder().encode(JSON.stringify(change(said))) };
        },
      });
      if (path === "whoami") return void await publish(folder, NAME, options);
      const { kind, message } = await refusal(HubError, publish(folder, NAME, options));
      assert.equal(kind, "protocol", message);
    });
  }
});

Deno.test("an object that the Hub does not take is a sentence with its reason", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const objects = (oid: string) => [{ oid, size: 1, error: { code: 413, message: "too big" } }];
    hub.faults.add({
      kind: "answer",
      path: "objects/batch",
      change: (answer) => {
        const { objects: [{ oid }] } = JSON.parse(
          new TextDecoder().decode(answer.body as Uint8Array),
        );
        const body = JSON.stringify({ transfer: "basic", objects: objects(oid) });
        return { ...answer, body: new TextEncoder().encode(body) };
      },
    });
    const { message } = await refusal(HubError, publish(folder, NAME, options));
    assert.match(message, /does not take one of its files \("413: too big"\)/);
  });
});

Deno.test("a file that the Hub does not find after it was sent stops everything before the commit", async () => {
  await withStage(async ({ hub, folder, options }) => {
    hub.faults.add({ kind: "status", status: 404, path: "objects/verify" });
    const { kind, message } = await refusal(HubError, publish(folder, NAME, options));
    assert.equal(kind, "damaged");
    assert.match(message, /does not find a file of \d+ bytes that was just sent \(404\)/);
    assert.equal(commitsOn(hub), 0);
  });
});

Deno.test("storage that goes silent is given up after a while, and asked again", async () => {
  await withStage(async (stage) => {
    const { hub, folder, options } = stage;
    hub.faults.add({ kind: "delay", ms: 60_000, on: "storage", method: "PUT" });
    await publish(folder, NAME, { ...options, hub: { ...options.hub, idleTimeout: 500 } });
    assert.deepEqual(await download(stage), await expected(folder));
  });
});

Deno.test("refusals of a commit are told in the Hub's words, with what to do", async () => {
  const cases: [status: number, said: string, expected: RegExp][] = [
    [400, "Invalid metadata in README.md", /does not accept it \(it says "Invalid metadata.*Mend/],
    [402, "Payment required", /asks for payment first \(it says "Payment required"\)\. Look at/],
    [413, "", /^Cannot publish to "me\/tiny": it is more than the Hub takes at once\. Use fewer/],
    [403, "no write access", /forbids it and says "no write access"\. Check what your token may/],
  ];
  for (const [status, said, expected] of cases) {
    await withStage(async ({ hub, folder, options }) => {
      const body = JSON.stringify({ error: said });
      hub.faults.add({ kind: "status", status, path: "/commit/", body });
      const { message } = await refusal(HubError, publish(folder, NAME, options));
      assert.match(message, expected);
      assert.equal(commitsOn(hub), 0);
    });
  }
});

Deno.test("what the commit holds is compared with what was sent", async () => {
  await withStage(async ({ hub, folder, options }) => {
    hub.faults.add({
      kind: "answer",
      path: "/tree/",
      skip: 1,
      change: (answer) => {
        const text = new TextDecoder().decode(answer.body as Uint8Array);
        const lie = text.replace(/"lfs":\{"oid":"./, (start) => `${start.slice(0, -1)}g`)
          .replaceAll('"g', '"0');
        return { ...answer, body: new TextEncoder().encode(lie) };
      },
    });
    const { kind, message } = await refusal(HubError, publish(folder, NAME, options));
    assert.equal(kind, "damaged");
    assert.match(message, /does not have "model\.safetensors" as it was sent/);
  });
});

Deno.test("a file that changes while it is published stops everything before the commit", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const path = join(folder, "model.safetensors");
    const change = async (event: PublishEvent) => {
      if (event.type === "hashing") await Deno.writeFile(path, new Uint8Array(7));
    };
    const changes: Promise<void>[] = [];
    const act = publish(folder, NAME, {
      ...options,
      report: (event) => changes.push(change(event)),
    });
    const { message } = await refusal(CheckpointError, act);
    assert.match(message, /it changed while it was in use/);
    await Promise.all(changes);
    assert.equal(commitsOn(hub), 0);
  });
});

Deno.test("publish() stops when it is told to, with the reason given", async () => {
  await withStage(async ({ hub, folder, options }) => {
    const stop = new AbortController();
    const reason = new Error("enough");
    const act = publish(folder, NAME, {
      ...options,
      signal: stop.signal,
      report: ({ type }) => type === "uploading" && stop.abort(reason),
    });
    assert.equal(await refusal(Error, act), reason);
    assert.equal(commitsOn(hub), 0);
  }, IN_PARTS);
});

Deno.test("the token goes to the Hub alone and is in no event, no error and no repository", async () => {
  const token = "hf_canaryCANARY123";
  await withStage(async ({ hub, folder, options, events }) => {
    const own = { ...options, hub: { ...options.hub, token } };
    hub.faults.add({
      kind: "redirect",
      to: `${hub.storage}/elsewhere`,
      path: "objects/verify",
      status: 307,
    });
    const moved = await refusal(HubError, publish(folder, NAME, own));
    hub.faults.add({
      kind: "status",
      status: 400,
      path: "/commit/",
      body: `{"error":"not ${token}"}`,
    });
    const refused = await refusal(HubError, publish(folder, NAME, own));
    await publish(folder, NAME, own);
    assert.ok(hub.log.some(({ origin, authorization }) => origin === "hub" && authorization));
    for (const { origin, authorization } of hub.log) {
      if (origin === "storage") assert.equal(authorization, false);
    }
    const said = JSON.stringify([events, hub.log, moved, refused]) +
      [moved, refused].map(({ message, stack, cause }) => `${message} ${stack} ${cause}`).join();
    assert.doesNotMatch(said, /canary/i);
    assert.match(refused.message, /not (?:hf_)?\*\*\*/);
  }, { tokens: { [token]: { user: "me", role: "write" } } });
});

Deno.test("memory stays flat while 300 MB are published", async () => {
  const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  try {
    const verified = await verifyFolder(folder);
    await Deno.truncate(await touch(join(folder, "extra.bin")), 300e6);
    await using hub = await startFakeHub({ partBytes: 50_000_000 });
    const before = heldBytes();
    let peak = 0;
    const report = await publish(folder, NAME, {
      hub: { endpoint: hub.endpoint, token: TOKEN, userAgent: "sluice-test" },
      card: CARD,
      verified,
      report: () => peak = Math.max(peak, heldBytes()),
    });
    assert.equal(report.files.find(({ path }) => path === "extra.bin")?.size, 300e6);
    // The fake Hub's own buffers are in this as well.
    assert.ok(peak - before < 150e6, `grew by ${((peak - before) / 1e6).toFixed(0)} MB`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

async function touch(path: string): Promise<string> {
  await Deno.writeFile(path, new Uint8Array());
  return path;
}

Deno.test("FileBlob slices as a Blob does, streams afresh each time, and tells of what it hands on", async () => {
  const path = await Deno.makeTempFile();
  try {
    const bytes = Uint8Array.from({ length: 700_000 }, (_, i) => i * 31 >> 3);
    await Deno.writeFile(path, bytes);
    await using reader = await disk.open(path);
    const blob = new FileBlob(reader), real = new Blob([bytes]);
    const spans = [[], [5], [5, 9], [-7], [-9, -2], [9, 5], [699_990, 1e9], [300_000, 600_000]];
    for (const span of spans) {
      const [ours, theirs] = [blob.slice(...span), real.slice(...span)];
      assert.equal(ours.size, theirs.size);
      assert.deepEqual(await ours.bytes(), await theirs.bytes());
      for (let i = 0; i < 2; i++) {
        assert.deepEqual(await new Response(ours.stream()).bytes(), await theirs.bytes());
      }
      assert.deepEqual(await ours.slice(1, -1).bytes(), await theirs.slice(1, -1).bytes());
    }
    let taken = 0;
    const faults: unknown[] = [];
    const watched = blob.watched({
      taken: (n) => taken += n,
      failed: (fault) => faults.push(fault),
    });
    await new Response(watched.stream()).bytes();
    assert.equal(taken, 700_000);
    await Deno.writeFile(path, bytes.subarray(0, 10));
    await assert.rejects(new Response(watched.stream()).bytes(), CheckpointError);
    assert.equal(faults.length, 1);
  } finally {
    await Deno.remove(path);
  }
});
