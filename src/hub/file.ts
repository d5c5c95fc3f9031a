/**
 * A file of a repository at a commit, and the hash that tells whether its bytes are right. Pure.
 */
import { createHash } from "node:crypto";
import type { RepoSpec } from "./repo_spec.ts";

/** A repository at a commit. */
export interface PinnedRepo {
  readonly kind: RepoSpec["kind"];
  /** Its name today. */
  readonly id: string;
  /** What was asked for. */
  readonly revision: string | undefined;
  /** 40 hexadecimal digits. */
  readonly commit: string;
}

/** A file of a repository at a commit. */
export interface HubFile {
  readonly repo: PinnedRepo;
  /** With `/`, as the Hub gives it: not checked yet. */
  readonly path: string;
  readonly size: number;
  /** What its bytes must hash to. */
  readonly hash: FileHash;
}

/**
 * SHA-256 of the bytes, for a file that the Hub keeps outside git; else the name of git's blob:
 * SHA-1 of `blob <size>\0` and the bytes.
 */
export interface FileHash {
  readonly kind: "sha256" | "git";
  readonly hex: string;
}

/** Bytes `[begin, end)` of a file. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** The algorithm of a file's hash, and what git puts before its bytes. */
export function hashStart({ hash, size }: Pick<HubFile, "hash" | "size">) {
  return hash.kind === "sha256"
    ? { algorithm: "sha256", before: "" }
    : { algorithm: "sha1", before: `blob ${size}\0` };
}

/** A hash of a file that has seen what git puts before its bytes. */
export function createFileHash(file: Pick<HubFile, "hash" | "size">) {
  const { algorithm, before } = hashStart(file);
  return createHash(algorithm).update(before);
}
