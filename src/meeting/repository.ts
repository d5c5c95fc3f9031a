/**
 * A repository of the Hub that several processes change at once: looked at as a whole, at one
 * commit, and changed by commits that say which one they follow. Who was overtaken looks again and
 * decides anew; who has used up the Hub's limit of commits waits.
 */
import { HubError, quote } from "../errors.ts";
import { HubClient, type HubFile } from "../hub/client.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import { backoff, LONGEST_WAIT, type Timing } from "../hub/timing.ts";
import type { TransportOptions } from "../hub/transport.ts";
import { readFiles, readHead } from "../publish/remote.ts";
import { Sender } from "../publish/sender.ts";
import { type Content, uploadFiles } from "../publish/upload.ts";

/** How often a commit is tried anew because another came first; each time one of them got on. */
const OVERTAKEN = 200;

/** How often it is waited for five minutes because there were too many commits: some hours. */
const LIMITED = 40;

/** A repository at a commit. */
export interface Look {
  readonly commit: string;
  readonly files: ReadonlyMap<string, HubFile>;
}

/** See the head of this file. */
export class SharedRepository {
  readonly id: string;
  readonly sender: Sender;
  readonly client: HubClient;
  readonly repo: RepoSpec;
  readonly timing: Timing;
  readonly #signal: AbortSignal | undefined;
  #known: Look | undefined;
  /** The last of the changes, each of which begins when the one before is done. */
  #last: Promise<unknown> = Promise.resolve();
  #commits = 0;

  /** @param options.signal Ends waiting, and requests. */
  constructor(
    repo: RepoSpec,
    { hub, signal }: { readonly hub: TransportOptions; readonly signal?: AbortSignal | undefined },
  ) {
    this.id = repo.id;
    this.repo = repo;
    this.sender = new Sender(hub);
    this.client = new HubClient(hub);
    this.timing = this.sender.transport.timing;
    this.#signal = signal;
  }

  /** Commits that were made here. */
  get commits(): number {
    return this.#commits;
  }

  /** What requests take. */
  asking(signal = this.#signal) {
    const { sender, client, repo } = this;
    return { sender, client, repo, signal };
  }

  /** What is there now. @throws {HubError} the Hub cannot be asked. */
  async look(signal = this.#signal): Promise<Look> {
    const asking = this.asking(signal);
    const commit = await readHead(asking);
    if (this.#known?.commit === commit) return this.#known;
    return this.#known = { commit, files: await readFiles(commit, asking) };
  }

  /** The text of a small file; undefined where there is none. */
  async text(file: HubFile | undefined): Promise<string | undefined> {
    if (!file) return undefined;
    const bytes = await this.client.readWhole(file, { signal: this.#signal });
    return new TextDecoder().decode(bytes);
  }

  /**
   * Change what is there, in one commit.
   *
   * @param make Files by path, for what is there now; none: nothing is to change. Asked again when
   * another process was faster.
   * @param signal Instead of the repository's own.
   * @returns Whether there is a commit.
   * @throws {HubError} the Hub refuses it, or cannot be reached.
   */
  change(
    title: string,
    make: (look: Look) => Promise<ReadonlyMap<string, Content>>,
    signal = this.#signal,
  ): Promise<boolean> {
    const change = this.#last.then(() => this.#change(title, make, signal));
    // Who asked for it hears how it ended; the next one only that it did.
    this.#last = change.then(() => {}, () => {});
    return change;
  }

  async #change(
    title: string,
    make: (look: Look) => Promise<ReadonlyMap<string, Content>>,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    for (const tries = { conflict: 0, "rate-limited": 0 };;) {
      const look = await this.look(signal);
      const contents = await make(look);
      if (contents.size === 0) return false;
      try {
        await uploadFiles(contents, {
          ...this.asking(signal),
          title,
          parent: look.commit,
          pullRequest: false,
          hashing: () => {},
          sent: () => {},
          committing: () => {},
        });
        this.#commits++;
        return true;
      } catch (fault) {
        if (!(fault instanceof HubError)) throw fault;
        if (fault.kind === "conflict" && tries.conflict < OVERTAKEN) {
          await this.timing.wait(backoff(Math.min(++tries.conflict, 4), this.timing), signal);
        } else if (fault.kind === "rate-limited" && tries["rate-limited"]++ < LIMITED) {
          this.sender.transport.report({
            type: "warning",
            code: "waiting",
            message: `${quote(this.id)} has had as many commits as the Hub allows: waiting five ` +
              "minutes. What is done meanwhile goes in one commit.",
          });
          await this.timing.wait(LONGEST_WAIT, signal);
        } else throw fault;
      }
    }
  }
}
