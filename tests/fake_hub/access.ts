/**
 * Who asks, what they may see and write, and the refusals of the Hub with their statuses, headers
 * and words.
 */
import type { Repository } from "./repository.ts";
import { type Answer, json, Refusal, type Visit } from "./answer.ts";

/** What a token is good for. */
export interface TokenInfo {
  /** The person's name, which is a namespace. */
  readonly user: string;
  readonly role: "read" | "write" | "fineGrained";
  /** Namespaces the person belongs to, beside their own. */
  readonly orgs?: readonly string[];
  /** Of those, the ones in which they may only read. */
  readonly readOnly?: readonly string[];
  /** Of a fine-grained token, the namespaces and repositories in which it may write. */
  readonly grants?: readonly string[];
}

/**
 * Who sent the token of a request, or undefined when it has none. Refuses tokens that the Hub does
 * not know.
 */
export function whoAsks(
  { headers }: Visit,
  tokens: ReadonlyMap<string, TokenInfo>,
): TokenInfo | undefined {
  if (headers.authorization === undefined) return undefined;
  const known = tokens.get(headers.authorization.replace(/^Bearer /, ""));
  if (known) return known;
  throw refusal(401, "Invalid credentials in Authorization header");
}

/** Whether a person is an owner of a namespace. */
export function belongs(person: TokenInfo | undefined, namespace: string): boolean {
  return person !== undefined &&
    (person.user === namespace || (person.orgs ?? []).includes(namespace));
}

function namespaceOf({ id }: Repository): string {
  return id.slice(0, id.lastIndexOf("/"));
}

/** Refuse those who may not know that a repository is there. */
export function checkVisible(
  repository: Repository | undefined,
  person: TokenInfo | undefined,
): asserts repository is Repository {
  if (
    repository && (!repository.settings.private || belongs(person, namespaceOf(repository)))
  ) {
    if (repository.settings.disabled) {
      throw refusal(403, "Access to this resource is disabled.");
    }
    return;
  }
  throw person
    ? refusal(404, "Repository not found", { code: "RepoNotFound" })
    : refusal(401, "Invalid username or password.", { code: "RepoNotFound" });
}

/** Refuse the files of a gated repository to those who have no access. */
export function checkGate(
  repository: Repository,
  person: TokenInfo | undefined,
  { endpoint }: { readonly endpoint: string },
): void {
  const { gated, granted = [] } = repository.settings;
  if (!gated || belongs(person, namespaceOf(repository))) return;
  if (person && granted.includes(person.user)) return;
  const about = `Access to ${repository.type} ${repository.id} is restricted`;
  throw person
    ? refusal(
      403,
      `${about} and you are not in the authorized list. Visit ${endpoint}/${repository.place} to ask for access.`,
      { code: "GatedRepo" },
    )
    : refusal(
      401,
      `${about}. You must have access to it and be authenticated to access it. Please log in.`,
      { code: "GatedRepo" },
    );
}

/** Refuse those who may not write into a namespace. */
export function checkWriter(
  person: TokenInfo | undefined,
  namespace: string,
): asserts person is TokenInfo {
  if (!person) throw refusal(401, "Invalid username or password.");
  if (!belongs(person, namespace) || person.readOnly?.includes(namespace)) {
    throw refusal(403, `You don't have the rights to write under the namespace "${namespace}".`);
  }
  if (
    person.role === "read" ||
    person.role === "fineGrained" &&
      !person.grants?.some((name) => name.split("/")[0] === namespace)
  ) {
    throw refusal(
      403,
      "Forbidden: you must use a write token to upload to a repository.",
    );
  }
}

/** Refuse those who may not write into a repository. */
export function checkWritable(
  repository: Repository,
  person: TokenInfo | undefined,
): asserts person is TokenInfo {
  checkWriter(person, namespaceOf(repository));
}

/** A refusal as the Hub words it: the reason in a header and in the body. */
export function refusal(
  status: number,
  message: string,
  { code, headers = {}, body = {} }: {
    readonly code?: string;
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: Readonly<Record<string, unknown>>;
  } = {},
): Refusal {
  const answer: Answer = json({ error: message, ...body }, {
    status,
    headers: {
      ...(code === undefined ? {} : { "X-Error-Code": code }),
      "X-Error-Message": message,
      ...headers,
    },
  });
  return new Refusal(answer);
}

/** The JSON of a body, or a refusal. */
export function parseJson<T>(body: Uint8Array): T {
  try {
    return JSON.parse(new TextDecoder().decode(body)) as T;
  } catch (error) {
    if (error instanceof SyntaxError) throw refusal(400, "Unexpected end of JSON input");
    throw error;
  }
}
