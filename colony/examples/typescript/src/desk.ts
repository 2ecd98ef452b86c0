// Which attempts are taken, which are running, and what became of them.

import { Attempt } from "./attempt.js";
import type { Dispatch, DispatchAnswer, MissionStatus } from "./contract.js";
import { Root } from "./root.js";
import { mayCallBack, type Settings } from "./settings.js";

const WAITING_PER_RUNNING = 4;
const REMEMBERED = 10_000;

interface Held {
  attempt: Attempt;
  answer: DispatchAnswer;
}

export class Desk {
  private readonly held = new Map<string, Held>();
  private readonly queue: (() => void)[] = [];
  private working = 0;
  private alive = 0;

  constructor(private readonly settings: Settings) {}

  get full(): boolean {
    return this.alive >= this.settings.running * (1 + WAITING_PER_RUNNING);
  }

  /** Takes one attempt, or says why not. The same one again gets the answer it got before. */
  admit(dispatch: Dispatch, version: string): DispatchAnswer {
    const name = { mission_id: dispatch.mission_id, attempt: dispatch.attempt };
    const known = this.held.get(dispatch.mission_id);
    if (known?.attempt.number === dispatch.attempt) return known.answer;
    if (known && known.attempt.number > dispatch.attempt) {
      const reason = `attempt ${known.attempt.number} of this mission is known here`;
      return { ...name, outcome: "refused", code: "attempt_superseded", reason };
    }
    if (!mayCallBack(this.settings, dispatch.callback_base_url)) {
      const reason = "callback_base_url is not among the origins of ROOT_API_BASE_URL";
      return { ...name, outcome: "refused", code: "callback_not_allowed", reason };
    }
    if (this.full) return { ...name, outcome: "busy", code: "full", reason: "all places are taken", retry_after_s: 2 };

    known?.attempt.stop("a newer attempt took over", "failed");
    const base = dispatch.callback_base_url.replace(/\/+$/, "");
    const root = new Root(base, this.settings.keys, version, dispatch.traceparent ?? null);
    const held: Held = { attempt: new Attempt(dispatch, root, this.settings), answer: { ...name, outcome: "accepted" } };
    this.held.delete(dispatch.mission_id); // the newest stand at the end
    this.held.set(dispatch.mission_id, held);
    this.start(held.attempt);
    this.forget();
    return held.answer;
  }

  status(mission: string): MissionStatus | null {
    return this.held.get(mission)?.attempt.status() ?? null;
  }

  cancel(mission: string, reason: string): MissionStatus | null {
    this.held.get(mission)?.attempt.stop(reason);
    return this.status(mission);
  }

  private start(attempt: Attempt): void {
    this.alive += 1;
    let placed = false;
    let place: () => void = () => {};
    const slot = new Promise<void>((resolve) => (place = resolve));
    const begin = (): void => {
      placed = true;
      this.working += 1;
      place();
    };
    this.queue.push(begin);
    this.fill();
    void attempt.run(slot).finally(() => {
      this.alive -= 1;
      if (placed) this.working -= 1;
      else this.queue.splice(this.queue.indexOf(begin), 1);
      this.fill();
      log("attempt ended", { ...attempt.status() });
    });
  }

  private fill(): void {
    while (this.working < this.settings.running && this.queue.length) this.queue.shift()!();
  }

  private forget(): void {
    for (const [mission, held] of this.held) {
      if (this.held.size <= REMEMBERED) return;
      if (held.attempt.state !== "running") this.held.delete(mission);
    }
  }
}

export function log(event: string, fields: Record<string, unknown>): void {
  process.stderr.write(`${JSON.stringify({ timestamp: new Date().toISOString(), event, ...fields })}\n`);
}
