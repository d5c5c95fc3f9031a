/** From an address of the Hub to what answers it. */
import { checkVisible, parseJson, refusal, type TokenInfo, whoAsks } from "./access.ts";
import type { Fault, FaultMatch, Faults } from "./faults.ts";
import {
  answerApi,
  answerCached,
  answerFile,
  type ReadOptions,
  type RepositoryVisit,
} from "./reading.ts";
import { createRepository, deleteRepository, validateCard } from "./repositories.ts";
import type { RepositoryType } from "./repository.ts";
import { type Answer, bodyOf, json, Refusal, type Visit } from "./answer.ts";
import type { LogEntry } from "./wire.ts";
import { answerWrite, lfsBatch, lfsVerify, type WriteOptions } from "./writing.ts";

/** All that the Hub's addresses need. */
export interface RouteOptions extends ReadOptions, WriteOptions {
  readonly tokens: ReadonlyMap<string, TokenInfo>;
  /** Old names of repositories, and where they are now. */
  readonly renamed: ReadonlyMap<string, string>;
  readonly faults: Faults;
  readonly log: LogEntry[];
}

/** Type and id of `org/name`, `datasets/org/name`. */
export function splitPlace(place: string): { readonly type: RepositoryType; readonly id: string } {
  return place.startsWith("datasets/")
    ? { type: "dataset", id: place.slice("datasets/".length) }
    : { type: "model", id: place };
}

/** Answer a request to the Hub's origin. */
export async function route(visit: Visit, options: RouteOptions): Promise<Answer> {
  const { method, url } = visit;
  const segments = decodeSegments(url);
  if (segments[0]?.startsWith("_")) return await control(visit, segments[0], options);
  // Signed, so without a token.
  if (segments[0] === "api" && segments[1] === "complete_multipart" && method === "POST") {
    return await options.storage.complete(visit);
  }
  const person = whoAsks(visit, options.tokens);
  if (segments[0] !== "api") return await answerPage(visit, { segments, person, options });
  switch (`${method} ${segments.slice(1).join("/")}`) {
    case "GET whoami-v2":
      return whoAmI(person);
    case "POST repos/create":
      return await createRepository(visit, person, options);
    case "DELETE repos/delete":
      return await deleteRepository(visit, person, options);
    case "POST validate-yaml":
      return await validateCard(visit);
  }
  const cached = segments[1] === "resolve-cache";
  const [kind = "", ...rest] = segments.slice(cached ? 2 : 1);
  if (kind !== "models" && kind !== "datasets") throw refusal(404, "Not found");
  const found = findRepository(visit, {
    prefix: kind === "datasets" ? "datasets/" : "",
    rest,
    person,
    options,
  });
  if (cached) return await answerCached(found, options);
  const answer = await answerApi(found, options) ?? await answerWrite(found, options);
  if (!answer) throw refusal(404, `Cannot ${method} ${url.pathname}`);
  return answer;
}

function decodeSegments(url: URL): string[] {
  try {
    return url.pathname.slice(1).split("/").map(decodeURIComponent);
  } catch (error) {
    if (error instanceof URIError) throw refusal(400, "Invalid URL");
    throw error;
  }
}

interface Found {
  readonly segments: readonly string[];
  readonly person: TokenInfo | undefined;
  readonly options: RouteOptions;
}

/** Addresses outside `/api`: files, and uploads of large ones. */
async function answerPage(visit: Visit, { segments, person, options }: Found): Promise<Answer> {
  const prefix = segments[0] === "datasets" ? "datasets/" : "";
  const rest = prefix === "" ? segments : segments.slice(1);
  const git = rest.findIndex((name) => name.endsWith(".git"));
  if (git >= 0 && visit.method === "POST") {
    const id = rest.slice(0, git + 1).join("/").slice(0, -".git".length);
    const found = findRepository(visit, { prefix, rest: id.split("/"), person, options });
    const action = rest.slice(git + 1).join("/");
    if (action === "info/lfs/objects/batch") return await lfsBatch(found, options);
    if (action === "info/lfs/objects/verify") return await lfsVerify(found);
  }
  if (visit.method === "GET" || visit.method === "HEAD") {
    const found = findRepository(visit, { prefix, rest, person, options });
    const [action] = found.rest;
    if (action === "resolve" || action === "raw") return await answerFile(found, options);
  }
  throw refusal(404, `Cannot ${visit.method} ${visit.url.pathname}`);
}

/** The repository that an address names, if its visitor may know of it. Old names redirect. */
function findRepository(
  visit: Visit,
  { prefix, rest, person, options }: Omit<Found, "segments"> & {
    readonly prefix: "" | "datasets/";
    readonly rest: readonly string[];
  },
): RepositoryVisit {
  const { repositories, renamed } = options;
  // An id has two names; a legacy one has one, and a slash that came as %2F is in one segment.
  const [first = ""] = rest;
  const known = (place: string) => repositories.has(place) || renamed.has(place);
  const count = first.includes("/") || known(prefix + first) ? 1 : 2;
  const id = rest.slice(0, count).join("/");
  const now = renamed.get(prefix + id);
  if (now !== undefined) throw new Refusal(movedTo(visit.url, id, splitPlace(now).id));
  const repository = repositories.get(prefix + id);
  checkVisible(repository, person);
  return { ...visit, repository, person, rest: rest.slice(count) };
}

function movedTo(url: URL, from: string, to: string): Answer {
  const path = url.pathname.replaceAll("%2F", "/").replace(`/${from}`, `/${to}`);
  const headers = { Location: path + url.search, "Content-Type": "text/plain" };
  return { status: 307, headers, body: new TextEncoder().encode(`Temporary Redirect to ${path}`) };
}

function whoAmI(person: TokenInfo | undefined): Answer {
  if (!person) throw refusal(401, "Invalid username or password.");
  const { user, role, orgs = [], readOnly = [], grants = [] } = person;
  const fineGrained = {
    canReadGatedRepos: false,
    global: [],
    scoped: grants.map((name) => ({
      entity: { type: name.includes("/") ? "model" : name === user ? "user" : "org", name },
      permissions: ["repo.content.read", "repo.write"],
    })),
  };
  return json({
    type: "user",
    id: `user-${user}`,
    name: user,
    fullname: user,
    email: `${user}@example.com`,
    emailVerified: true,
    isPro: false,
    canPay: false,
    avatarUrl: "",
    periodEnd: null,
    orgs: orgs.filter((name) => name !== user).map((name) => ({
      type: "org",
      id: `org-${name}`,
      name,
      fullname: name,
      roleInOrg: readOnly.includes(name) ? "read" : "write",
    })),
    auth: {
      type: "access_token",
      accessToken: {
        displayName: "test",
        role,
        createdAt: "2026-01-01T00:00:00.000Z",
        ...(role === "fineGrained" ? { fineGrained } : {}),
      },
    },
  });
}

/**
 * For other processes: `POST /_fault` adds a fault (its path is a pattern), `DELETE /_fault` clears
 * them, `GET /_log` is the log.
 */
async function control(
  visit: Visit,
  name: string,
  { faults, log }: RouteOptions,
): Promise<Answer> {
  if (name === "_log" && visit.method === "GET") return json(log);
  if (name === "_fault" && visit.method === "DELETE") {
    faults.clear();
    return json({});
  }
  if (name === "_fault" && visit.method === "POST") {
    const { path, ...fault } = parseJson<Fault & Omit<FaultMatch, "path"> & { path?: string }>(
      await bodyOf(visit),
    );
    faults.add(
      { ...fault, ...(path === undefined ? {} : { path: new RegExp(path) }) } as Fault & FaultMatch,
    );
    return json({});
  }
  throw refusal(404, `Cannot ${visit.method} ${visit.url.pathname}`);
}
