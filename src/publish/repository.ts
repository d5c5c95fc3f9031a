/**
 * Making a repository and a branch of it, once: a try whose answer was lost is found out by
 * looking.
 */
import { HubError, quote } from "../errors.ts";
import { TransientFault } from "../hub/transport.ts";
import type { Visibility } from "./plan.ts";
import { type Asking, findRepo } from "./remote.ts";
import { isUncertain } from "./sender.ts";

/**
 * Make a repository for a model.
 *
 * @throws {HubError} the token may not, or someone else was faster.
 */
export async function createRepo(
  { sender, repo, signal }: Asking,
  visibility: Visibility,
): Promise<void> {
  const ask = { doing: `make the repository ${quote(repo.id)}`, repo };
  const [organization, name] = repo.id.split("/");
  const policy = sender.transport.retryPolicy(ask, signal);
  for (;;) {
    let fault: unknown;
    try {
      await sender.post(sender.home("/api/repos/create"), {
        ask,
        again: "refused",
        signal,
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ name, organization, type: "model", visibility }),
      });
      return;
    } catch (error) {
      const busy = busyFault(error);
      if (!busy && !isUncertain(error)) throw error;
      fault = busy ?? error;
    }
    const found = await findRepo({ sender, repo, signal });
    if (found?.id === repo.id && found.private === (visibility === "private")) return;
    await policy.failed(fault);
  }
}

/** A refusal that may be none the next time: the Hub is at work on a repository of that name. */
function busyFault(error: unknown): TransientFault | undefined {
  if (!(error instanceof HubError) || !/conflicting operation/i.test(error.message)) {
    return undefined;
  }
  return new TransientFault({
    kind: "conflict",
    found: "the Hub is at work on a repository of that name",
    advice: "Wait a minute, then run the same command again.",
    status: error.status,
  });
}

/**
 * Make an empty branch.
 *
 * @throws {HubError} the token may not.
 */
export async function createBranch({ sender, repo, signal }: Asking): Promise<void> {
  const ask = { doing: `make the branch ${quote(repo.revision ?? "main")} of ${quote(repo.id)}` };
  const branch = encodeURIComponent(repo.revision ?? "main");
  try {
    await sender.post(sender.home(`/api/models/${repo.id}/branch/${branch}`), {
      ask,
      again: "always",
      signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ startingPoint: "main", emptyBranch: true }),
    });
  } catch (fault) {
    // Made by an earlier try whose answer was lost. Were it someone else's, the commit would see
    // their files as its parent's.
    if (!(fault instanceof HubError) || fault.status !== 409) throw fault;
  }
}
