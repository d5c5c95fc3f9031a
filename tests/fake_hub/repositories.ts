/**
 * The Hub's addresses that make and remove repositories, and that check a card before it is
 * uploaded.
 */
import { parse as parseYaml, YAMLParseError } from "yaml";
import { checkWriter, parseJson, refusal, type TokenInfo } from "./access.ts";
import { type Answer, bodyOf, json, type Visit } from "./answer.ts";
import { Repository } from "./repository.ts";
import type { WriteOptions } from "./writing.ts";

/** Make a repository, as `POST /api/repos/create` asks. */
export async function createRepository(
  visit: Visit,
  person: TokenInfo | undefined,
  { endpoint, threshold, repositories, stop }: WriteOptions,
): Promise<Answer> {
  const asked = parseJson<
    {
      name?: string;
      organization?: string | null;
      type?: string;
      visibility?: string;
      private?: boolean;
    }
  >(await bodyOf(visit));
  const { name = "", type = "model" } = asked;
  const namespace = asked.organization ?? person?.user ?? "";
  checkWriter(person, namespace);
  if (!/^[\w.-]{1,96}$/.test(name) || /^[.-]|[.-]$|--|\.\./.test(name)) {
    throw refusal(400, `Invalid repo name: "${name}".`);
  }
  if (type !== "model" && type !== "dataset") throw refusal(400, `No repo of type "${type}".`);
  const repository = new Repository(`${namespace}/${name}`, {
    type,
    threshold,
    stop,
    settings: { private: asked.visibility === "private" || asked.private === true },
  });
  const url = `${endpoint}/${repository.place}`;
  if (repositories.has(repository.place)) {
    throw refusal(409, `You already created this ${type} repo`, { body: { url } });
  }
  repository.commit({
    files: { ".gitattributes": "*.safetensors filter=lfs diff=lfs merge=lfs -text\n" },
    title: "initial commit",
    author: person.user,
  });
  repositories.set(repository.place, repository);
  return json({ url, name: repository.id, id: repository.head().sha.slice(0, 24) });
}

/** Remove a repository, as `DELETE /api/repos/delete` asks. */
export async function deleteRepository(
  visit: Visit,
  person: TokenInfo | undefined,
  { repositories }: WriteOptions,
): Promise<Answer> {
  const { name = "", organization, type = "model" } = parseJson<
    { name?: string; organization?: string | null; type?: string }
  >(await bodyOf(visit));
  const namespace = organization ?? person?.user ?? "";
  checkWriter(person, namespace);
  const place = `${type === "model" ? "" : `${type}s/`}${namespace}/${name}`;
  if (!repositories.delete(place)) {
    throw refusal(404, "Repository not found", { code: "RepoNotFound" });
  }
  return { status: 200 };
}

/** Check a card's front matter, as `POST /api/validate-yaml` asks. */
export async function validateCard(visit: Visit): Promise<Answer> {
  const { content = "" } = parseJson<{ content?: string }>(await bodyOf(visit));
  const [, matter] = /^---\r?\n([\s\S]*?)\r?\n---/.exec(content) ?? [];
  if (matter === undefined) {
    return json({
      errors: [],
      warnings: [{ message: "empty or missing yaml metadata in repo card" }],
    });
  }
  try {
    parseYaml(matter);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    return json({ errors: [{ message: error.message }], warnings: [] }, { status: 400 });
  }
  return json({ errors: [], warnings: [] });
}
