/**
 * From an answer of the Hub that is no success to a sentence with what to do. The Hub says what it
 * means in `X-Error-Code` and `X-Error-Message`, with a JSON body beside them; proxies in between
 * answer anything. Everything shown is redacted.
 */
import { HubError, type HubFault, quote } from "../errors.ts";
import { redact, shownUrl } from "./redact.ts";
import type { RepoSpec } from "./repo_spec.ts";

/** What is being asked for, for messages. */
export interface Ask {
  /** What cannot be done if it fails: `open "org/name"`. */
  readonly doing: string;
  readonly repo?: RepoSpec;
  readonly path?: string;
}

/** Who asks, as far as it matters to what must be done. */
export interface Asker {
  readonly endpoint: string;
  readonly token: string | undefined;
}

/** A failure, in parts. */
export interface Failure {
  readonly kind: HubFault;
  /** What was found; continues “Cannot read …:”. */
  readonly found: string;
  /** A sentence: what to do. */
  readonly advice: string;
  readonly status?: number | undefined;
  readonly url?: URL | undefined;
  readonly cause?: unknown;
}

/** The error that tells of a failure, without secrets. */
export function hubError(
  { doing }: Ask,
  { kind, found, advice, status, url, cause }: Failure,
  { token }: Asker,
): HubError {
  return new HubError(redact(`Cannot ${doing}: ${found}. ${advice}`, [token]), {
    kind,
    status,
    url: url && redact(shownUrl(url), [token]),
    // The runtime's own messages name the URL with its query.
    cause: cause instanceof Error ? new Error(redact(cause.message, [token])) : undefined,
  });
}

/** What a refusal means, by status, headers and what its body says. */
export function explain(
  { status, headers, url, text }: {
    readonly status: number;
    readonly headers: Headers;
    readonly url: URL;
    /** The body, or its start. */
    readonly text: string;
  },
  { repo, path }: Ask,
  { endpoint, token }: Asker,
): Failure {
  const code = headers.get("x-error-code") ?? "";
  const said = serverMessage(headers, text);
  const name = repo ? quote(repo.id) : "it";
  const page = repo && `${endpoint}/${repo.kind === "dataset" ? "datasets/" : ""}${repo.id}`;
  const of = (kind: HubFault, found: string, advice: string): Failure => ({
    kind,
    found,
    advice,
    status,
    url,
  });
  if (code === "GatedRepo" || /gated repo|awaiting a review|must be authenticated/i.test(said)) {
    return of(
      "gated",
      `${name} is gated${said && `, the Hub says ${quote(said)}`}`,
      token === undefined
        ? `Accept its terms at ${page ?? endpoint}, then set HF_TOKEN to a token of your account.`
        : `Accept its terms at ${page ?? endpoint} with the account of your token, and wait if ` +
          `its owners must agree.`,
    );
  }
  if (status === 401 && code === "" && token !== undefined) {
    return of(
      "unauthorized",
      "the Hub does not know your token",
      `Make a new one at ${endpoint}/settings/tokens and set HF_TOKEN to it, or unset HF_TOKEN ` +
        `for public repositories.`,
    );
  }
  if (code === "RevisionNotFound" || status === 404 && /invalid rev/i.test(said)) {
    return of(
      "missing-revision",
      `${name} has no revision ${quote(repo?.revision ?? "main")}`,
      `Look at its branches and tags at ${page ?? endpoint}/tree/main.`,
    );
  }
  if (code === "EntryNotFound" || status === 404 && path !== undefined && code === "") {
    return of(
      "missing-file",
      path === undefined ? `the Hub has no such file` : `${name} has no file ${quote(path)}`,
      `Look at its files at ${page ?? endpoint}/tree/main.`,
    );
  }
  if (status === 401 || status === 404) {
    return of(
      "missing-repo",
      `the Hub has no ${repo?.kind ?? "repository"} ${name}, or it is private`,
      token === undefined
        ? "Check the spelling; if it is private, set HF_TOKEN to a token that may read it."
        : "Check the spelling, and that your token's account may read it.",
    );
  }
  if (status === 403) {
    return of(
      "forbidden",
      `the Hub forbids it${said && ` and says ${quote(said)}`}`,
      token === undefined
        ? "Set HF_TOKEN to a token that may read it."
        : `Check what your token may do at ${endpoint}/settings/tokens.`,
    );
  }
  if (status === 429) {
    return of(
      "rate-limited",
      "the Hub's limit of requests is used up",
      token === undefined
        ? "Wait some minutes; with HF_TOKEN set, the limit is higher."
        : "Wait some minutes and run the same command again.",
    );
  }
  if (status >= 500 || status === 408) {
    return of(
      "server",
      `${quote(url.host)} answers ${status}${said && ` and says ${quote(said)}`}`,
      "Try again later; https://status.huggingface.co tells of known trouble.",
    );
  }
  return of(
    "protocol",
    `${quote(url.host)} answers ${status}${said && ` and says ${quote(said)}`}`,
    "This is no answer that the Hub should give: check HF_ENDPOINT and proxies, then try again.",
  );
}

/** What the server says of its refusal, in one line; "" when nothing that a person should read. */
function serverMessage(headers: Headers, text: string): string {
  const header = headers.get("x-error-message");
  if (header) return oneLine(header);
  if (!/^\s*\{/.test(text)) return "";
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (fault) {
    if (!(fault instanceof SyntaxError)) throw fault;
    return "";
  }
  const { error, errors } = body as { error?: unknown; errors?: unknown };
  if (typeof error === "string") return oneLine(error);
  const list = Array.isArray(error) ? error : Array.isArray(errors) ? errors : [];
  return oneLine(
    list.map((item: unknown) =>
      typeof item === "string"
        ? item
        : typeof item === "object" && item !== null && "message" in item
        ? String(item.message)
        : ""
    ).filter(Boolean).join("; "),
  );
}

function oneLine(text: string): string {
  return redact(text).replace(/\s+/g, " ").trim();
}
