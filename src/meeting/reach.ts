/** From the word that names a repository to the repository, and whether workers may meet there. */
import { HubError, quote, RequestError } from "../errors.ts";
import { parseRepoSpec } from "../hub/repo_spec.ts";
import type { TransportOptions } from "../hub/transport.ts";
import { findRepo } from "../publish/remote.ts";
import { checkRights } from "../publish/rights.ts";
import { isHubPlace } from "./names.ts";
import { SharedRepository } from "./repository.ts";

/** How to reach a repository. */
export interface Reaching {
  /** The way to the Hub; to work, with a token that may write. */
  readonly hub: TransportOptions;
  /** Ends waiting, and requests. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A repository that is read.
 *
 * @param name `hf://org/name`
 * @throws {RequestError} no repository can have that name.
 */
export function repositoryOf(name: string, options: Reaching): SharedRepository {
  const repo = isHubPlace(name) ? parseRepoSpec(name) : undefined;
  if (repo && repo.revision === undefined && repo.id.includes("/")) {
    return new SharedRepository(repo, options);
  }
  throw new RequestError(
    `Cannot work in ${quote(name)}: say which repository of the Hub, as hf://org/name.`,
  );
}

/**
 * A repository that will be written.
 *
 * @param name `hf://org/name`
 * @returns It, and whether it is there already.
 * @throws {RequestError} no repository can have that name, or it has another now.
 * @throws {HubError} there is no token, or it may not write there; or the Hub cannot be asked.
 */
export async function reachToWrite(
  name: string,
  options: Reaching,
): Promise<{ readonly repository: SharedRepository; readonly isThere: boolean }> {
  const { hub, signal } = options;
  const repository = repositoryOf(name, options);
  if (hub.token === undefined) {
    throw new HubError(
      `Cannot work in ${quote(name)}: there is no token. Make one that may write at ` +
        `${hub.endpoint}/settings/tokens and set HF_TOKEN to it.`,
      { kind: "unauthorized" },
    );
  }
  const { id, sender } = repository;
  await checkRights(sender, { repo: id, pullRequest: false, doing: "work in", signal });
  const found = await findRepo(repository.asking());
  if (found && found.id !== id) {
    throw new RequestError(
      `Cannot work in ${quote(name)}: it is now ${quote(found.id)}. Use the new name.`,
    );
  }
  return { repository, isThere: found !== undefined };
}
