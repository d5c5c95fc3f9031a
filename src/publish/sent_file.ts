/** What an upload is given, and what it tells of each file. */
import type { HubClient } from "../hub/client.ts";
import type { RepoSpec } from "../hub/repo_spec.ts";
import type { Sender } from "./sender.ts";

/** What was sent of one file, by the words of the commit. */
export interface SentFile {
  readonly path: string;
  readonly size: number;
  /** `sha256`: outside git; `git`: SHA-1 of git's blob. */
  readonly hash: { readonly kind: "sha256" | "git"; readonly hex: string };
}

/** One upload. */
export interface UploadOptions {
  readonly sender: Sender;
  readonly client: HubClient;
  /** With the branch as its revision. */
  readonly repo: RepoSpec;
  /** The commit that ours is to follow. */
  readonly parent: string;
  readonly pullRequest: boolean;
  /** Bytes of files that are on their way; negative when a try has failed. */
  readonly sent: (bytes: number) => void;
  /** Bytes that need not be sent: the Hub has them. */
  readonly present: (bytes: number) => void;
}
