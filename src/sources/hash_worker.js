// Hashes files whole and in parts, batch by batch, for hash_thread.ts: every message is answered,
// in order. Started from a data: URL of this text (no permission needed).
import { createHash } from "node:crypto";
const files = new Map();
self.onmessage = ({ data: { id, open, bytes, close } }) => {
  if (open) {
    const { algorithm, before, spans } = open;
    const parts = spans.map((span) => ({ ...span, hash: createHash("sha256") }));
    files.set(id, { whole: createHash(algorithm).update(before), parts, at: 0 });
  }
  const file = files.get(id);
  if (bytes) {
    file.whole.update(bytes);
    const from = file.at;
    file.at += bytes.length;
    for (const { begin, end, hash } of file.parts) {
      if (begin >= file.at || end <= from) continue;
      hash.update(bytes.subarray(Math.max(0, begin - from), Math.min(bytes.length, end - from)));
    }
  }
  if (!close) return self.postMessage(bytes, bytes ? [bytes.buffer] : []);
  files.delete(id);
  const parts = file.parts.map(({ hash }) => hash.digest("hex"));
  self.postMessage({ whole: file.whole.digest("hex"), parts });
};
