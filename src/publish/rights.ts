/**
 * Whether a token may write in a namespace, as far as the Hub's own words tell (`/api/whoami-v2`):
 * asked before hours of work. Refused is what surely cannot be; what the answer does not say is
 * left for the Hub to decide.
 */
import { quote } from "../errors.ts";
import type { Ask } from "../hub/refusals.ts";
import { isObject } from "../json.ts";
import type { Sender } from "./sender.ts";

/** Where something is to be written. */
export interface Goal {
  /** `org/name` */
  readonly repo: string;
  /** A proposal may be made wherever one may read. */
  readonly pullRequest: boolean;
  /** What cannot be done without the right, as "publish to". */
  readonly doing?: string;
  readonly signal: AbortSignal | undefined;
}

/**
 * See that the token may write.
 *
 * @throws {HubError} of kind `forbidden`: it may only read, or not write in this namespace.
 */
export async function checkRights(
  sender: Sender,
  { repo, pullRequest, doing = "publish to", signal }: Goal,
): Promise<void> {
  const ask: Ask = { doing: `${doing} ${quote(repo)}` };
  const said = await sender.json(sender.home("/api/whoami-v2"), {
    ask,
    again: "always",
    method: "GET",
    signal,
  });
  const problem = refusal(said, { repo, pullRequest, tokens: tokensPage(sender) });
  if (problem) throw sender.transport.error(ask, { kind: "forbidden", ...problem });
}

function tokensPage(sender: Sender): string {
  return `${sender.transport.endpoint}/settings/tokens`;
}

interface Problem {
  readonly found: string;
  readonly advice: string;
}

function refusal(
  said: unknown,
  { repo, pullRequest, tokens }: Pick<Goal, "repo" | "pullRequest"> & { readonly tokens: string },
): Problem | undefined {
  const { auth, name, orgs } = isObject(said) ? said : {};
  const token = isObject(auth) && isObject(auth.accessToken) ? auth.accessToken : {};
  const advice = `Make one that may write at ${tokens} and set HF_TOKEN to it.`;
  if (token.role === "read") return { found: "your token may only read", advice };
  if (pullRequest || typeof name !== "string") return undefined;
  const namespace = repo.split("/")[0]!;
  if (!same(namespace, name)) {
    const problem = memberRefusal(orgs, { namespace, name });
    if (problem) return problem;
  }
  const grants = token.role === "fineGrained" && isObject(token.fineGrained)
    ? token.fineGrained.scoped
    : undefined;
  if (!Array.isArray(grants) || grants.some((grant) => allowsWriting(grant, { namespace, repo }))) {
    return undefined;
  }
  return {
    found: `your token may not write in ${
      quote(namespace)
    }: it is fine-grained, and nothing of it allows that`,
    advice: `Allow it at ${tokens}, or set HF_TOKEN to another token.`,
  };
}

/** The Hub takes names that differ in capitals for the same. */
function same(a: unknown, b: string): boolean {
  return typeof a === "string" && a.toLowerCase() === b.toLowerCase();
}

/** Why someone may not write in a namespace that is not their own name. */
function memberRefusal(
  orgs: unknown,
  { namespace, name }: { readonly namespace: string; readonly name: string },
): Problem | undefined {
  if (!Array.isArray(orgs)) return undefined;
  const all = orgs.filter(isObject);
  const org = all.find((org) => same(org.name, namespace));
  if (!org) {
    const others = all.map((org) => quote(String(org.name))).join(", ");
    return {
      found: `${quote(namespace)} is neither the account of your token, ${quote(name)}, nor ` +
        (others === "" ? "an organisation of it" : `one of its organisations, ${others}`),
      advice: `Publish to ${quote(`${name}/…`)}, or set HF_TOKEN to a token of an account that ` +
        `belongs to ${quote(namespace)}.`,
    };
  }
  // Groups within an organisation may give more than it does as a whole.
  const groups = Array.isArray(org.resourceGroups) ? org.resourceGroups.filter(isObject) : [];
  const roles = [org.roleInOrg, ...groups.map(({ role }) => role)];
  return roles.every((role) => role === "read" || role === "no_access")
    ? {
      found: `${quote(name)} may only read in the organisation ${quote(namespace)}`,
      advice: `Ask its owners for the right to write, or publish to ${quote(`${name}/…`)}.`,
    }
    : undefined;
}

/** Whether a grant of a fine-grained token is for this namespace or repository, and to write. */
function allowsWriting(
  grant: unknown,
  { namespace, repo }: { readonly namespace: string; readonly repo: string },
): boolean {
  const { entity, permissions } = isObject(grant) ? grant : {};
  const name = isObject(entity) ? entity.name : undefined;
  const here = name === undefined || same(name, namespace) || same(name, repo);
  return here && Array.isArray(permissions) &&
    permissions.some((permission) => /^repo\b.*\bwrite$/.test(String(permission)));
}
