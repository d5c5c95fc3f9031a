/**
 * Large files on their way to the Hub's storage (git-lfs's batch API, with the Hub's parts): where
 * each is to go, the bytes themselves, the parts put together, and the Hub told. Whatever happened
 * to an answer, the Hub is asked whether it has the object before anything is called lost.
 */
import { HubError, quote } from "../errors.ts";
import type { Ask } from "../hub/refusals.ts";
import type { FileBlob } from "./file_blob.ts";
import { isObject } from "../json.ts";
import type { Answer } from "./sender.ts";
import type { UploadOptions } from "./sent_file.ts";

/** An object that is to be uploaded, as the batch call answered. */
interface Action {
  readonly oid: string;
  readonly size: number;
  readonly verify:
    | { readonly href: unknown; readonly header: Readonly<Record<string, string>> }
    | undefined;
}

/** One call of the package. */
export interface Call {
  readonly url: string;
  readonly signal: AbortSignal | undefined;
  readonly body: string;
}

/** The large files of one upload. */
export class LargeFiles {
  readonly #options: UploadOptions;
  readonly #ask: Ask;
  /** By the address that completes it. */
  readonly #actions = new Map<string, Action>();
  /** By the address of one of its parts. */
  readonly #parts = new Map<string, Action>();
  /** Storage refused an address, as it does when one has expired. */
  refused = false;

  constructor(options: UploadOptions, ask: Ask) {
    this.#options = options;
    this.#ask = ask;
  }

  /** Whether an address is one that an object or a part is sent to. */
  takes(url: string): boolean {
    return this.#parts.has(url) || this.#actions.has(url);
  }

  /** Whether an address is one that puts parts together. */
  completes(url: string): boolean {
    return this.#actions.has(url);
  }

  /** Ask where objects are to go. Of files with the same bytes, one is sent. */
  async batch({ url, signal, body }: Call): Promise<Answer> {
    const { sender, present } = this.#options;
    const question = JSON.parse(body) as { objects: { oid: string; size: number }[] };
    const asked = [...new Map(question.objects.map((object) => [object.oid, object])).values()];
    const answer = await sender.post(new URL(url), {
      ask: this.#ask,
      again: "always",
      signal,
      headers: LFS_HEADERS,
      body: JSON.stringify({ ...question, objects: asked }),
    });
    const said = sender.parse(answer.text, this.#ask);
    const { transfer = "basic", objects } = isObject(said) ? said : {};
    if (!Array.isArray(objects) || transfer !== "basic" && transfer !== "multipart") {
      return sender.wrong(this.#ask, `offers no way of uploading that Sluice knows`);
    }
    const found = new Map(objects.filter(isObject).map((object) => [object.oid, object]));
    if (objects.length !== asked.length || found.size !== asked.length) {
      return sender.wrong(this.#ask, "answers for other files than it was asked about");
    }
    for (const { oid, size } of asked) {
      const object = found.get(oid);
      if (!object) return sender.wrong(this.#ask, "does not say where a file is to go");
      this.#remember(object, { oid, size });
    }
    const total = (list: readonly { size: number }[]) => list.reduce((n, { size }) => n + size, 0);
    present(total(question.objects) - total(asked));
    return answer;
  }

  /** Where one object is to go, if anywhere. */
  #remember(object: Record<string, unknown>, { oid, size }: { oid: string; size: number }): void {
    const { sender, present } = this.#options;
    if (isObject(object.error)) {
      const { code, message } = object.error;
      throw sender.transport.error(this.#ask, {
        kind: code === 403 ? "forbidden" : "server",
        found: `the Hub does not take one of its files (${quote(`${code}: ${message}`)})`,
        advice: "See to that, then run the same command again.",
        status: typeof code === "number" ? code : undefined,
      });
    }
    const { upload, verify } = isObject(object.actions) ? object.actions : {};
    if (!isObject(upload)) return present(size);
    sender.address(upload.href, this.#ask);
    const header = stringsOf(upload.header);
    const chunk = header.chunk_size;
    const parts = Object.keys(header).filter((key) => /^\d+$/.test(key));
    if (chunk !== undefined && parts.length !== Math.ceil(size / Number(chunk))) {
      return sender.wrong(
        this.#ask,
        `gives ${parts.length} addresses for a file of ${size} bytes in parts of ${quote(chunk)}`,
      );
    }
    const action: Action = {
      oid,
      size,
      verify: isObject(verify)
        ? { href: verify.href, header: stringsOf(verify.header) }
        : undefined,
    };
    // The package asks for exactly what it read in the answer, so that is the key.
    this.#actions.set(String(upload.href), action);
    if (chunk === undefined) return;
    for (const part of parts) {
      sender.address(header[part], this.#ask);
      this.#parts.set(header[part]!, action);
    }
  }

  /** Send an object, or a part of one. */
  async put({ url, signal }: Omit<Call, "body">, blob: FileBlob): Promise<Answer> {
    const { sender, sent } = this.#options;
    const part = this.#parts.get(url);
    const action = part ?? this.#actionAt(url);
    const ask = { doing: `upload a file to ${quote(this.#options.repo.id)}` };
    let answer: Answer;
    try {
      answer = await sender.put(new URL(url), blob, { ask, signal, sent });
    } catch (fault) {
      if (!isRefusal(fault)) throw fault;
      // Storage forgets an upload that is complete, also when its answer was lost.
      if (part || !await this.#isStored(action, signal)) {
        this.refused = true;
        throw sender.transport.error(ask, {
          kind: "forbidden",
          found: `${quote(new URL(url).host)}, where the Hub keeps files, answers ${fault.status}`,
          advice: "Run the same command again: what is there already is not sent twice.",
          status: fault.status,
          url: new URL(url),
        });
      }
      sent(blob.size);
      answer = emptyAnswer(url);
    }
    if (!part) await this.#verify(action, signal);
    else if (!answer.headers.get("etag")) {
      return sender.wrong(this.#ask, "took a part of a file and gave no ETag for it");
    }
    return answer;
  }

  /** Put the parts of an object together. */
  async complete({ url, signal, body }: Call): Promise<Answer> {
    const { sender } = this.#options;
    const action = this.#actionAt(url);
    const call = { ask: this.#ask, signal, headers: LFS_HEADERS, body };
    let answer: Answer | undefined;
    try {
      answer = await sender.post(new URL(url), { ...call, again: "always" });
      // Storage may begin its answer before it knows how it ends.
      if (/<Error>|"error"\s*:/.test(answer.text)) answer = undefined;
    } catch (fault) {
      // Done by an earlier try whose answer was lost, the upload is no longer known.
      if (!isRefusal(fault)) throw fault;
      if (!await this.#isStored(action, signal)) throw fault;
    }
    if (!answer && !await this.#isStored(action, signal)) {
      return sender.wrong(this.#ask, "could not put the parts of a file together");
    }
    await this.#verify(action, signal);
    return answer ?? emptyAnswer(url);
  }

  /** Whether the Hub has an object already: then it gives no address for it. */
  async #isStored({ oid, size }: Action, signal: Call["signal"]): Promise<boolean> {
    const { sender, repo } = this.#options;
    const said = await sender.json(sender.home(`/${repo.id}.git/info/lfs/objects/batch`), {
      ask: this.#ask,
      again: "always",
      signal,
      headers: LFS_HEADERS,
      body: JSON.stringify({
        operation: "upload",
        transfers: ["basic", "multipart"],
        hash_algo: "sha256",
        objects: [{ oid, size }],
      }),
    });
    const objects: unknown = isObject(said) ? said.objects : undefined;
    const [object] = Array.isArray(objects) ? objects as unknown[] : [];
    return isObject(object) && object.oid === oid && object.error === undefined &&
      !(isObject(object.actions) && isObject(object.actions.upload));
  }

  /** Tell the Hub that an object is there, where it asks for that (git-lfs, “Verification”). */
  async #verify({ oid, size, verify }: Action, signal: Call["signal"]): Promise<void> {
    const { sender } = this.#options;
    if (!verify) return;
    try {
      await sender.post(sender.address(verify.href, this.#ask), {
        ask: this.#ask,
        again: "always",
        signal,
        headers: { ...verify.header, ...LFS_HEADERS },
        body: JSON.stringify({ oid, size }),
      });
    } catch (fault) {
      if (!isRefusal(fault)) throw fault;
      throw sender.transport.error(this.#ask, {
        kind: "damaged",
        found: `the Hub does not find a file of ${size} bytes that was just sent (${fault.status})`,
        advice: "Run the same command again.",
        status: fault.status,
      });
    }
  }

  #actionAt(url: string): Action {
    const action = this.#actions.get(url);
    if (action) return action;
    throw new RangeError("Cannot upload: nobody was told to send anything there.");
  }
}

/** Whether a server does not want what it was sent. */
function isRefusal(fault: unknown): fault is HubError {
  return fault instanceof HubError && fault.status !== undefined && fault.status >= 400 &&
    fault.status < 500 && fault.kind !== "rate-limited";
}

const LFS_HEADERS = {
  accept: "application/vnd.git-lfs+json",
  "content-type": "application/vnd.git-lfs+json",
};

function stringsOf(value: unknown): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries(isObject(value) ? value : {}).map(([key, value]) => [key, String(value)]),
  );
}

function emptyAnswer(url: string): Answer {
  return { text: "{}", headers: new Headers(), url: new URL(url) };
}
