// One attempt at one mission: seven stages, each leaving its artifact, and one signal at the end.

import type { Dispatch, MissionStatus, Stage, State } from "./contract.js";
import type { Json } from "./json.js";
import { Outbox, Stopped } from "./outbox.js";
import { CallFailed, pause, type Root } from "./root.js";
import type { Settings } from "./settings.js";
import { sha256 } from "./signing.js";
import { bytes, coverage, cut, sentences, wordsOf } from "./words.js";

const SAY_SO_MS = 30_000; // for the root to take the last events, when the attempt's time is over
const ENOUGH = 0.5;

interface Passage {
  source: string;
  document: string;
  heading: string;
  start: number;
  end: number;
  text: string;
  score: number;
}

interface Citation {
  source: string;
  document: string;
  start: number;
  end: number;
  quote: string;
  quote_sha256: string;
}

interface Claim {
  id: string;
  text: string;
  citations: Citation[];
  confidence: number;
}

/** The attempt ends with `blocked`, and this is why. */
class Blocked extends Error {}

export class Attempt {
  state: State = "running";
  private reason: string | null = null;
  private stage: Stage | null = null;
  private readonly outbox: Outbox;
  private readonly over = new AbortController(); // stopped, or out of time: no new call is begun
  private readonly gone = new AbortController(); // ended: nobody waits for anything any more
  private readonly deadline: number;

  constructor(
    private readonly dispatch: Dispatch,
    private readonly root: Root,
    private readonly settings: Settings,
  ) {
    this.outbox = new Outbox(root, dispatch.mission_id, dispatch.attempt, dispatch.mission_token);
    this.deadline = Date.now() + Math.min(dispatch.budgets.time_ms, settings.missionMs);
  }

  get number(): number {
    return this.dispatch.attempt;
  }

  status(): MissionStatus {
    return {
      mission_id: this.dispatch.mission_id,
      attempt: this.number,
      state: this.state,
      stage: this.stage,
      last_seq_sent: this.outbox.lastSent,
      reason: this.reason && cut(this.reason, 2_000),
    };
  }

  /** Stop at the next safe point and say nothing more. An attempt that has ended stays as it is. */
  stop(reason: string, state: State = "cancelled"): void {
    if (this.state !== "running") return;
    this.end(state, reason);
    this.over.abort();
    this.outbox.close();
  }

  /** From acceptance to the last acknowledged event. Never throws. `slot` resolves when there is room to work. */
  async run(slot: Promise<void>): Promise<void> {
    const timer = setTimeout(() => this.over.abort(), Math.max(this.deadline - Date.now(), 0));
    try {
      await this.outbox.begin();
      const [sending, working] = [this.outbox.run(), this.work(slot)];
      for (const one of [sending, working]) one.catch(() => {}); // the first that fails is heard below
      await Promise.race([sending, working]);
    } catch (error) {
      this.end(error instanceof Stopped ? error.state : "failed", error instanceof Error ? error.message : "unknown");
    } finally {
      clearTimeout(timer);
      this.over.abort();
      this.gone.abort();
      this.outbox.close();
      this.end("failed", "the attempt ended without a word");
    }
  }

  private end(state: State, reason: string | null): void {
    if (this.state === "running") [this.state, this.reason] = [state, reason];
  }

  private async work(slot: Promise<void>): Promise<void> {
    let last: Record<string, string> = { signal: "complete" };
    try {
      await Promise.race([slot, aborted(this.over.signal)]);
      await this.stages();
    } catch (error) {
      if (this.state !== "running") return;
      if (error instanceof Stopped) throw error;
      const late = this.over.signal.aborted ? "the mission was not finished in its time; " : "";
      const why = error instanceof Blocked || late ? (error as Error).message : `a mistake of the colony (${(error as Error).name})`;
      last = { signal: "blocked", reason: cut(`${this.stage ?? "waiting"}: ${late}${why}`, 2_000) };
    }
    if (this.state !== "running") return;
    this.tell("signal", last);
    const patience = pause(SAY_SO_MS + this.left(), this.gone.signal);
    const told = await Promise.race([this.outbox.settled().then(() => true), patience.then(() => false)]);
    if (!told) this.end("failed", "the root could not be told how the mission ended");
    this.end(last["signal"] === "complete" ? "completed" : "blocked", last["reason"] ?? null);
  }

  private left(): number {
    return Math.max(this.deadline - Date.now(), 0);
  }

  private async stages(): Promise<void> {
    const { envelope } = this.dispatch;
    const question = envelope.normalized_goal;
    const terms = wordsOf(question);

    await this.in("planner", async () => {
      const task = { id: "t1", kind: "question", title: "The question", question };
      this.produce("mission_task_graph", { tasks: [task] });
    });
    await this.in("prompt_master", async () => {
      const prompt = { task_id: "t1", role: "worker", instructions: "Quote what answers the question; reword nothing." };
      this.produce("prompt_package", { prompts: [{ ...prompt, terms: [...terms].slice(0, 200).map((term) => cut(term, 200)) }] });
    });
    const passages = await this.in("librarian", async () => {
      const found = await this.search(question);
      const results = found.map(({ source, document, start, end, score }) => ({ source, document, start, end, score }));
      this.produce("librarian_pass", { searches: [{ task_id: "t1", query: question, results }] });
      return found;
    });
    const candidates = await this.in("researcher", async () => {
      const quoted = passages.flatMap((passage, place) => this.passage(passage, place));
      this.produce("research_artifact", { passages: quoted });
      return passages;
    });
    const claims = await this.in("workers", async () => {
      const found = this.claims(candidates, terms);
      this.produce("worker_result", { task_id: "t1", claims: found, not_found: found.length ? [] : [cut(question, 2_000)] });
      return found;
    });
    await this.in("aggregator", async () => this.produce("aggregation_packet", this.packet(claims, question)));
    await this.in("reviewer", async () => this.produce("review_packet", await this.review(claims)));
  }

  private async in<Result>(stage: Stage, work: () => Promise<Result>): Promise<Result> {
    this.over.signal.throwIfAborted();
    this.stage = stage;
    this.tell("stage.started", { stage });
    const began = performance.now();
    const result = await work();
    this.tell("stage.completed", { stage, latency_ms: Math.round(performance.now() - began) });
    return result;
  }

  // --- the stages' own work

  private async search(question: string): Promise<Passage[]> {
    const found = await this.tool("workspace.search", { query: cut(question, 2_000), limit: 12, ...this.workspace() });
    const passages = (found as { passages?: unknown } | null)?.passages;
    if (!Array.isArray(passages)) throw new Blocked("workspace.search: the answer is not what was agreed");
    return (passages as Passage[]).filter((one) => bytes(one.text) === one.end - one.start);
  }

  private passage({ source, document, heading, start, text, score }: Passage, place: number): Json[] {
    const quote = cut(text, 4_000);
    if (!quote) return [];
    const citation = cite(source, document, start, quote);
    return [{ ...citation, id: `p${place + 1}`, task_id: "t1", ...(heading ? { heading: cut(heading, 1_000) } : {}), score }];
  }

  private claims(passages: Passage[], terms: Set<string>): Claim[] {
    const wanted = this.dispatch.envelope.inputs?.["max_claims"];
    const most = typeof wanted === "number" ? Math.min(wanted, 50) : 3;
    const seen = new Set<string>();
    const scored = passages.flatMap((passage) =>
      sentences(passage.text).map((sentence) => {
        const share = coverage(terms, sentence.text);
        const withHeading = coverage(terms, `${sentence.text} ${passage.heading}`);
        return { passage, sentence, score: share > 0 ? (share + withHeading) / 2 : 0 };
      }),
    );
    const best = Math.max(ENOUGH, ...scored.map((one) => one.score * 0.75));
    return scored
      .filter((one) => one.score >= best && one.sentence.text.length <= 4_000)
      .sort((one, other) => other.score - one.score)
      .filter(({ passage, sentence }) => {
        const place = `${passage.source}:${passage.start + sentence.start}`;
        return !seen.has(place) && seen.add(place);
      })
      .slice(0, most)
      .map(({ passage, sentence, score }, place) => ({
        id: `t1-c${place + 1}`,
        text: sentence.text,
        citations: [cite(passage.source, passage.document, passage.start + sentence.start, sentence.text)],
        confidence: Math.round(score * 1000) / 1000,
      }));
  }

  private packet(claims: Claim[], question: string): Record<string, unknown> {
    if (!claims.length) {
      return { answer_status: "not_found", answer: "Not found in the documents.", not_found: [cut(question, 2_000)] };
    }
    const section = { title: "The question", claim_ids: claims.map((claim) => claim.id) };
    const answer = cut(claims.map((claim) => claim.text).join("\n\n"), 50_000);
    return { answer_status: "answered", answer, claims, sections: [section] };
  }

  /** Reads every cited span again and says whether it holds: the root will do the same. */
  private async review(claims: Claim[]): Promise<Record<string, unknown>> {
    const reviewed = [];
    for (const claim of claims) {
      const [citation] = claim.citations as [Citation];
      const read = await this.tool("workspace.read", { source: citation.source, start: citation.start, end: citation.end, ...this.workspace() });
      const verified = (read as { text?: unknown } | null)?.text === citation.quote;
      reviewed.push({ claim_id: claim.id, text: claim.text, citations: [{ citation, verified }], supported: verified });
    }
    const holding = reviewed.filter((one) => one.supported).length;
    const coverage = claims.length ? holding / claims.length : 1;
    return { reviewer: "colony", verdict: coverage === 1 ? "passed" : "failed", claims: reviewed, coverage };
  }

  // --- tools and events

  private workspace(): { workspace?: Json } {
    const named = this.dispatch.envelope.inputs?.["workspace"];
    return typeof named === "string" && named ? { workspace: named } : {};
  }

  /** Asks a tool until it answers, refuses for good, or time is over. */
  private async tool(name: string, args: Json): Promise<Json> {
    const until = Date.now() + this.settings.taskMs;
    for (let wait = 200; ; wait = Math.min(wait * 2, 2_000)) {
      this.over.signal.throwIfAborted();
      try {
        return await this.root.tool(this.dispatch.mission_id, name, args, this.outbox.token, this.over.signal);
      } catch (error) {
        if (!(error instanceof CallFailed)) throw error;
        if (error.ended) throw new Stopped("cancelled", "the root has moved on");
        this.over.signal.throwIfAborted(); // our own time is over: the tool has not failed
        const ms = Math.max(wait, error.retryAfterMs);
        if (!error.passing || Date.now() + ms > Math.min(until, this.deadline)) {
          const code = /^[a-z][a-z0-9_]{0,63}$/.test(error.code) ? error.code : "refused";
          this.tell("provider.failed", { provider: name, code, detail: error.message, retryable: error.passing });
          throw new Blocked(`${name}: ${error.message}`);
        }
        await pause(ms, this.over.signal);
      }
    }
  }

  private produce(name: string, fields: Record<string, unknown>): void {
    const { mission_id, tenant_id, actor_id } = this.dispatch.envelope;
    const producer = { name: "typescript-colony", version: "1.0.0" };
    const head = { schema_name: name, schema_version: "1", mission_id, tenant_id, actor_id, created_at: new Date().toISOString() };
    this.tell("artifact.produced", { artifact: { ...head, producer, ...fields } });
  }

  private tell(type: string, fields: Record<string, unknown>): void {
    if (this.state === "running") this.outbox.put(type, fields);
  }
}

/** The citation of a quote that begins at byte `start` of its source: its end and its hash are of its UTF-8 bytes. */
function cite(source: string, document: string, start: number, quote: string): Citation & { [name: string]: Json } {
  return { source, document, start, end: start + bytes(quote), quote, quote_sha256: sha256(quote) };
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const over = (): void => reject(new Blocked("there was no room to work on it"));
    if (signal.aborted) over();
    else signal.addEventListener("abort", over);
  });
}
