/**
 * How a repository of the Hub is named: `org/name`, `org/name@revision`, or the address that a
 * browser shows. Pure.
 */

/** A repository as a person wrote it. */
export interface RepoSpec {
  readonly kind: "model" | "dataset";
  /** `org/name`, or the single name of an old repository: `gpt2`. */
  readonly id: string;
  /** A branch, a tag, a commit, `refs/pr/1`; the default branch when undefined. */
  readonly revision: string | undefined;
}

const NAME = /^[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** Whether a revision is a commit, which never changes. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}

/**
 * What `text` names on the Hub, or undefined when no repository can have that name. Whether a path
 * of that name exists on this machine is for the caller to see first.
 *
 * `hf://org/name@revision` and `https://huggingface.co/org/name/tree/revision` are understood too.
 */
export function parseRepoSpec(
  text: string,
  kind: RepoSpec["kind"] = "model",
): RepoSpec | undefined {
  const plain = withoutAddress(text, kind);
  const at = plain.indexOf("@");
  const id = at === -1 ? plain : plain.slice(0, at);
  const revision = at === -1 ? undefined : plain.slice(at + 1);
  if (!isRepoId(id) || revision !== undefined && !isRevision(revision)) return undefined;
  return { kind, id, revision };
}

/**
 * What begins the address of a repository: of a model nothing more than the Hub's own, of a dataset
 * also its kind.
 */
const ADDRESS = {
  model: /^(?:hf:\/\/|https?:\/\/(?:www\.)?(?:huggingface\.co|hf\.co)\/)(?:models\/)?/i,
  dataset:
    /^(?:hf:\/\/(?:datasets\/)?|https?:\/\/(?:www\.)?(?:huggingface\.co|hf\.co)\/datasets\/)/i,
};

/**
 * An address as it would be written by name: `org/name@main` for
 * `https://huggingface.co/org/name/tree/main`. Other texts stay as they are.
 */
export function withoutAddress(text: string, kind: RepoSpec["kind"]): string {
  const [start] = ADDRESS[kind].exec(text) ?? [];
  if (start === undefined) return text;
  const path = text.slice(start.length);
  if (start.startsWith("hf:")) return path;
  return path.replace(/[?#].*$/, "").replace(/\/$/, "")
    .replace(/^([^/@]+(?:\/[^/@]+)?)\/tree\/([^@]+)$/, "$1@$2");
}

function isRepoId(id: string): boolean {
  const parts = id.split("/");
  return parts.length <= 2 &&
    parts.every((part) => NAME.test(part) && !part.includes("--") && !part.includes("..")) &&
    !id.endsWith(".git");
}

/** Names that git allows for references (git-check-ref-format), as far as they matter in a URL. */
function isRevision(revision: string): boolean {
  return revision.length > 0 && revision.length <= 255 &&
    // deno-lint-ignore no-control-regex -- the pattern is of control characters
    !/[\u0000-\u0020\u007f~^:?*[\\%]|\.\.|\/\/|@\{/.test(revision) &&
    !/^[/.-]|[/.]$/.test(revision);
}

/** The spec as it is written. */
export function formatRepoSpec({ id, revision }: Pick<RepoSpec, "id" | "revision">): string {
  return revision === undefined ? id : `${id}@${revision}`;
}
