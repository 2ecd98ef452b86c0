// What one attempt tells the root: events in order, sent again until they are acknowledged, and a sign of life between.

import type { Event } from "./contract.js";
import { CallFailed, pause, type Root } from "./root.js";

const ALIVE_MS = 3_000;
const MOST_EVENTS = 100;
const MOST_CHARS = 1_000_000;
const UNAUTHORIZED_TRIES = 5;

/** The attempt cannot go on; `failed` when the root will not take what it says, else the root does not want it. */
export class Stopped extends Error {
  constructor(
    readonly state: "cancelled" | "failed",
    reason: string,
  ) {
    super(reason.slice(0, 1_000));
  }
}

export class Outbox {
  private readonly events: Event[] = [];
  private before = 0; // events that an earlier life of this attempt has sent
  private acknowledged = 0;
  private sent = 0;
  private unauthorized = 0;
  private givenUp: string | null = null;
  private closed = false;
  private wake: () => void = () => {};
  private readonly over = new AbortController();
  private readonly waiting: (() => void)[] = [];

  constructor(
    private readonly root: Root,
    private readonly mission: string,
    private readonly attempt: number,
    public token: string,
  ) {}

  get lastSent(): number {
    return this.sent;
  }

  put(type: string, fields: Record<string, unknown>): void {
    if (this.givenUp) return;
    this.events.push({ seq: this.last + 1, at: new Date().toISOString(), type, ...fields });
    this.wake();
  }

  /** Resolves when everything that was put is acknowledged. */
  settled(): Promise<void> {
    return this.acknowledged >= this.last ? Promise.resolve() : new Promise((resolve) => this.waiting.push(resolve));
  }

  /** Asks how far the root is with this attempt: it may know events of an earlier life of this process. */
  async begin(): Promise<void> {
    await this.untilTaken(async () => {
      const receipt = await this.root.events(this.mission, this.attempt, [], this.token);
      this.token = receipt.next_token;
      this.before = this.acknowledged = this.sent = receipt.accepted_seq;
      if (receipt.stop) throw new Stopped("cancelled", receipt.stop_reason ?? "the root asked to stop");
    });
  }

  /** Sends until it is closed. */
  async run(): Promise<void> {
    while (!this.closed) {
      await this.untilTaken(() => this.sendSome());
      if (this.acknowledged >= this.last && !this.closed) await this.rest();
    }
  }

  close(): void {
    this.closed = true;
    this.over.abort();
    this.wake();
  }

  private get last(): number {
    return this.before + this.events.length;
  }

  private async sendSome(): Promise<void> {
    const batch = this.next();
    this.sent = Math.max(this.sent, batch.at(-1)?.seq ?? 0);
    const receipt = await this.root.events(this.mission, this.attempt, batch, this.token);
    this.token = receipt.next_token;
    if (receipt.accepted_seq > this.last) throw new Stopped("failed", "somebody else sends events of this attempt");
    this.acknowledged = Math.max(this.acknowledged, receipt.accepted_seq);
    const done = this.acknowledged >= this.last;
    if (done && this.givenUp) throw new Stopped("failed", this.givenUp);
    if (done) for (const resolve of this.waiting.splice(0)) resolve();
    if (receipt.stop && !(done && this.endsAttempt())) throw new Stopped("cancelled", receipt.stop_reason ?? "the root asked to stop");
  }

  private next(): Event[] {
    const batch: Event[] = [];
    let chars = 0;
    for (const event of this.events.slice(this.acknowledged - this.before, this.acknowledged - this.before + MOST_EVENTS)) {
      chars += JSON.stringify(event).length;
      if (batch.length && chars > MOST_CHARS) break;
      batch.push(event);
    }
    return batch;
  }

  private endsAttempt(): boolean {
    const event = this.events.at(-1);
    return event?.type === "signal" && ["complete", "blocked", "escalate"].includes(String(event["signal"]));
  }

  private async untilTaken(send: () => Promise<void>): Promise<void> {
    for (let wait = 100; !this.closed; wait = Math.min(wait * 2, 2_000)) {
      try {
        await send();
        this.unauthorized = 0;
        return;
      } catch (error) {
        if (!(error instanceof CallFailed)) throw error;
        const again = this.after(error);
        if (again) continue;
        await pause(Math.max(wait, error.retryAfterMs), this.over.signal);
      }
    }
  }

  /** What a refusal means: true to send again at once, false after a pause; throws when there is no use. */
  private after(error: CallFailed): boolean {
    if (error.ended) throw new Stopped("cancelled", "the root has moved on");
    if (error.status === 409 && error.expectedSeq !== null) {
      if (error.expectedSeq <= this.before) throw new Stopped("failed", "the root asks for events of an earlier process");
      const moved = this.acknowledged !== error.expectedSeq - 1;
      this.acknowledged = Math.min(error.expectedSeq - 1, this.last);
      return moved;
    }
    if (error.status === 401 || error.status === 403) {
      this.unauthorized += 1;
      if (this.unauthorized >= UNAUTHORIZED_TRIES) throw new Stopped("failed", "the root refuses our signature or token");
      return false;
    }
    if (error.passing) return false;
    if (this.givenUp) throw new Stopped("failed", this.givenUp);
    // what was refused for good will be refused again: instead of it, one event that says so
    this.events.splice(this.acknowledged - this.before);
    this.put("signal", { signal: "blocked", reason: `the root refuses our events (${error.message})`.slice(0, 2_000) });
    this.givenUp = error.message;
    return true;
  }

  private rest(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ALIVE_MS);
      this.wake = (): void => {
        clearTimeout(timer);
        this.wake = () => {};
        resolve();
      };
    });
  }
}
