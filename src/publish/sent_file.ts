/** What is known of a file that was published. */

/** What was sent of one file, by the words of the commit. */
export interface SentFile {
  readonly path: string;
  readonly size: number;
  /** `sha256`: outside git; `git`: SHA-1 of git's blob. */
  readonly hash: { readonly kind: "sha256" | "git"; readonly hex: string };
}
