// The way to the root: signed calls with one deadline, bounded answers, no redirects, and refusals as errors.

import { NEWEST, type Event, type Receipt } from "./contract.js";
import { type Json, MAX_BYTES, parse } from "./json.js";
import type { Key } from "./settings.js";
import { sign } from "./signing.js";

const ANSWER_MS = 10_000;

/** Why a call was not answered as hoped. `status` is 0 when there was no answer that could be read. */
export class CallFailed extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly retryAfterMs: number,
    readonly expectedSeq: number | null,
  ) {
    super(`${code}: ${detail}`.slice(0, 1_000));
  }

  /** The attempt is over for the root. */
  get ended(): boolean {
    return this.status === 410 || (this.status === 409 && ["attempt_superseded", "mission_closed"].includes(this.code));
  }

  /** It may work if it is asked again. */
  get passing(): boolean {
    return this.status === 0 || this.status >= 500 || [408, 425, 429].includes(this.status);
  }
}

export class Root {
  constructor(
    private readonly base: string,
    private readonly keys: Key[],
    private readonly version: string,
    private readonly traceparent: string | null,
  ) {}

  async events(mission: string, attempt: number, events: Event[], token: string): Promise<Receipt> {
    const said = await this.call(`/internal/v1/missions/${mission}/events`, { contract_version: this.version, attempt, events }, token);
    if (!isReceipt(said)) throw new CallFailed(0, "malformed_answer", "the receipt is none", 0, null);
    return said;
  }

  /** Asks a tool, no longer than until the signal. */
  async tool(mission: string, tool: string, args: Json, token: string, over: AbortSignal): Promise<Json> {
    const said = await this.call(`/internal/v1/missions/${mission}/tools/${tool}/calls`, { arguments: args }, token, over);
    return member(said, "result") ?? null;
  }

  private async call(path: string, question: unknown, token: string, over?: AbortSignal): Promise<Json> {
    const body = new TextEncoder().encode(JSON.stringify(question));
    const url = new URL(this.base + path);
    const headers: Record<string, string> = {
      ...sign(this.keys, "POST", url.pathname, body),
      "Colony-Contract-Version": NEWEST,
      "Content-Type": "application/json",
      Authorization: `Bearer ${token}`,
      ...(this.traceparent ? { traceparent: this.traceparent } : {}),
    };
    let response: Response;
    let bytes: Uint8Array;
    try {
      const signal = AbortSignal.any([AbortSignal.timeout(ANSWER_MS), ...(over ? [over] : [])]);
      response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal });
      bytes = await bounded(response);
    } catch (error) {
      throw new CallFailed(0, "unreachable", error instanceof Error ? error.message : "no answer", 0, null);
    }
    let said: Json = null;
    try {
      said = parse(bytes);
    } catch {
      if (response.ok) throw new CallFailed(0, "malformed_answer", "the answer is not JSON", 0, null);
    }
    if (response.status === 200 || response.status === 202) return said; // 202: a change became a proposal
    const text = (name: string): string => (typeof member(said, name) === "string" ? (member(said, name) as string) : "");
    const expected = member(said, "expected_seq");
    throw new CallFailed(
      response.status < 400 ? 0 : response.status, // a redirect is not followed, and is no answer
      text("code") || `status_${response.status}`,
      text("detail") || "no problem document",
      waitOf(response.headers.get("retry-after")),
      Number.isInteger(expected) && (expected as number) > 0 ? (expected as number) : null,
    );
  }
}

/** Milliseconds of a Retry-After: seconds or a date; one day at most. */
export function waitOf(value: string | null): number {
  if (!value) return 0;
  const ms = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), 86_400_000) : 0;
}

function member(value: Json, name: string): Json | undefined {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value[name] : undefined;
}

function isReceipt(value: unknown): value is Receipt {
  const said = value as Receipt | null;
  return typeof said === "object" && said !== null && Number.isInteger(said.accepted_seq) && typeof said.next_token === "string";
}

async function bounded(response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for (const reader = response.body?.getReader(); reader; ) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > MAX_BYTES) {
      await reader.cancel();
      throw new Error(`the answer is larger than ${MAX_BYTES} bytes`);
    }
    chunks.push(value);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

/** Waits so long or a bit longer, so that many do not come back at once; but no longer than until the signal. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", over);
      resolve();
    };
    const timer = setTimeout(over, ms * (1 + 0.3 * Math.random()));
    if (signal?.aborted) over();
    else signal?.addEventListener("abort", over);
  });
}
