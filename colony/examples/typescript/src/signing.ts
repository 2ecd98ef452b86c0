// Who may speak: every request is signed with a shared key that is itself never sent.

import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import type { Key } from "./settings.js";

export type Audience = "root" | "colony";
export type Headers = Record<string, string | string[] | undefined>;

const WINDOW_S = 300;
const MOST_NONCES = 200_000;
const utf8 = new TextEncoder();

export function sha256(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

function signature(secret: string, audience: Audience, method: string, path: string, time: string, nonce: string, body: Uint8Array): string {
  const lines = ["mission-root-v1", audience, method.toUpperCase(), path, time, nonce, sha256(body)];
  return `v1=${createHmac("sha256", secret).update(lines.join("\n")).digest("hex")}`;
}

/** The headers that prove a call to the root. `path` is percent-encoded as it is sent, with its query. */
export function sign(keys: Key[], method: string, path: string, body: Uint8Array): Record<string, string> {
  const key = keys[0]!;
  const time = String(Math.floor(Date.now() / 1000));
  const nonce = randomBytes(18).toString("base64url");
  return {
    "X-Colony-Key": key.kid,
    "X-Colony-Timestamp": time,
    "X-Colony-Nonce": nonce,
    "X-Colony-Signature": signature(key.secret, "root", method, path, time, nonce, body),
  };
}

/** Checks calls to this colony. Why one is refused is for the log; its caller is told nothing. */
export class Checker {
  private readonly seen = new Map<string, number>();
  private readonly nobody = randomBytes(32).toString("hex");

  constructor(private readonly keys: Key[]) {}

  /** Null when the call is genuine, in time and new; else the reason. */
  refusal(method: string, path: string, body: Uint8Array, headers: Headers): string | null {
    const said = (name: string): string => (typeof headers[name] === "string" ? headers[name] : "");
    const [kid, time, nonce] = [said("x-colony-key"), said("x-colony-timestamp"), said("x-colony-nonce")];
    const given = said("x-colony-signature");
    const formed = /^[A-Za-z0-9_-]{1,32}$/.test(kid) && /^[0-9]{10,11}$/.test(time) && /^[A-Za-z0-9_-]{16,64}$/.test(nonce);
    if (!formed || !/^v1=[0-9a-f]{64}$/.test(given)) return "malformed";

    const key = this.keys.find((one) => one.kid === kid);
    const expected = signature(key?.secret ?? this.nobody, "colony", method, path, time, nonce, body);
    const genuine = timingSafeEqual(utf8.encode(expected), utf8.encode(given));
    if (!key || !genuine) return "wrong";
    const now = Date.now() / 1000;
    if (Math.abs(now - Number(time)) > WINDOW_S) return "expired";
    return this.firstUse(nonce, Number(time) + WINDOW_S, now) ? null : "replayed";
  }

  private firstUse(nonce: string, until: number, now: number): boolean {
    if (this.seen.has(nonce)) return false;
    if (this.seen.size >= MOST_NONCES) {
      for (const [one, end] of this.seen) if (end < now) this.seen.delete(one);
      if (this.seen.size >= MOST_NONCES) return false;
    }
    this.seen.set(nonce, until);
    return true;
  }
}
