/**
 * A commit that happens once. The Hub may carry a commit out and its answer be lost (a 504 after
 * its minute, a broken connection), so an unclear answer is settled by looking: is the head still
 * the parent, or is it a commit with our files? Only then is it asked for again, and the parent's
 * name in it keeps a late first one from being doubled.
 */
import { HubError, quote } from "../errors.ts";
import type { HubClient } from "../hub/client.ts";
import type { Ask } from "../hub/refusals.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import { readHead, sameFiles } from "./remote.ts";
import { isObject } from "../json.ts";
import { isUncertain, type Sender } from "./sender.ts";
import type { SentFile } from "./sent_file.ts";
import type { TransientFault } from "../hub/transport.ts";

/** A commit that was made. */
export interface CommitMade {
  readonly commit: string;
  /** Where people look at it. */
  readonly commitUrl: string;
  readonly pullRequestUrl: string | undefined;
}

/** A commit to make. */
export interface CommitOptions {
  readonly sender: Sender;
  readonly client: HubClient;
  /** With the branch as its revision. */
  readonly repo: RepoSpec;
  readonly parent: string;
  readonly pullRequest: boolean;
  readonly signal: AbortSignal | undefined;
  /** Newline-delimited JSON, the parent in its header. */
  readonly body: string;
  readonly files: readonly SentFile[];
  readonly ask: Ask;
}

/**
 * Make a commit.
 *
 * @throws {HubError} the Hub refuses it, someone else was faster, or it could not be found out
 * whether a pull request was opened.
 */
export async function commitOnce(options: CommitOptions): Promise<CommitMade> {
  const { sender, repo, body, ask, signal, parent, pullRequest } = options;
  const revision = encodeURIComponent(repo.revision ?? "main");
  const url = sender.home(
    `/api/models/${repo.id}/commit/${revision}${pullRequest ? "?create_pr=1" : ""}`,
  );
  if (!pullRequest && await sameFiles(parent, options)) return done(options, parent);
  const policy = sender.transport.retryPolicy(ask, signal);
  for (;;) {
    let fault: TransientFault;
    try {
      const said = await sender.json(url, {
        ask,
        again: "refused",
        signal,
        headers: { "content-type": "application/x-ndjson" },
        body,
      });
      return read(said, options);
    } catch (error) {
      const conflict = error instanceof HubError && error.kind === "conflict";
      if (!conflict && !isUncertain(error)) throw error;
      if (pullRequest) throw conflict ? error : unclear(error as TransientFault, options);
      const head = await readHead(options);
      if (head !== parent && await sameFiles(head, options)) return done(options, head);
      if (conflict || head !== parent) throw conflict ? error : overtaken(options);
      fault = error as TransientFault;
    }
    await policy.failed(fault);
  }
}

function read(said: unknown, { sender, ask, pullRequest }: CommitOptions): CommitMade {
  const { commitOid, commitUrl, pullRequestUrl, success } = isObject(said) ? said : {};
  if (typeof commitOid !== "string" || !/^[0-9a-f]{40}$/.test(commitOid) || success === false) {
    return sender.wrong(ask, "does not say which commit it made");
  }
  if (pullRequest && typeof pullRequestUrl !== "string") {
    return sender.wrong(ask, "does not say which pull request it opened");
  }
  return {
    commit: commitOid,
    commitUrl: String(commitUrl ?? ""),
    pullRequestUrl: typeof pullRequestUrl === "string" ? pullRequestUrl : undefined,
  };
}

function done({ sender, repo }: CommitOptions, commit: string): CommitMade {
  const commitUrl = sender.home(`/${repo.id}/commit/${commit}`).href;
  return { commit, commitUrl, pullRequestUrl: undefined };
}

function overtaken({ sender, ask, repo }: CommitOptions): HubError {
  return sender.transport.error(ask, {
    kind: "conflict",
    found: `someone else committed to ${quote(repo.id)} meanwhile`,
    advice: "Look at what they did, then run the same command again.",
  });
}

function unclear({ failure }: TransientFault, { sender, ask, repo }: CommitOptions): HubError {
  return sender.transport.error(ask, {
    ...failure,
    advice: `Whether the pull request was opened is not known: look at ` +
      `${sender.home(`/${repo.id}/discussions`).href} before you try again.`,
  });
}
