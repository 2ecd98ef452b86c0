// The messages that are used here, and the version of the contract they are of.

import type { Json } from "./json.js";

export const NEWEST = "1.2";
const FIRST = "1.0";

export interface Budgets {
  time_ms: number;
  tokens: number;
  cost_usd: number;
}

export interface Envelope {
  mission_id: string;
  tenant_id: string;
  actor_id: string;
  mission_type: string;
  user_goal: string;
  normalized_goal: string;
  inputs?: { [name: string]: Json };
}

export interface Dispatch {
  mission_id: string;
  attempt: number;
  envelope: Envelope;
  callback_base_url: string;
  mission_token: string;
  budgets: Budgets;
  traceparent?: string | null;
}

export interface DispatchBatch {
  missions: Dispatch[];
}

export interface DispatchAnswer {
  mission_id: string;
  attempt: number;
  outcome: "accepted" | "refused" | "busy";
  reason?: string;
  code?: string;
  retry_after_s?: number;
}

export type State = "running" | "completed" | "blocked" | "cancelled" | "failed";
export type Stage = "planner" | "prompt_master" | "librarian" | "researcher" | "workers" | "aggregator" | "reviewer";

export interface MissionStatus {
  mission_id: string;
  attempt: number;
  state: State;
  stage: Stage | null;
  last_seq_sent: number;
  reason: string | null;
}

export interface Event {
  seq: number;
  at: string;
  type: string;
  [field: string]: unknown;
}

export interface Receipt {
  accepted_seq: number;
  next_token: string;
  stop?: boolean;
  stop_reason?: string | null;
}

/** The version to speak with a peer whose newest is `theirs`; null when there is none. Who does not say speaks the first. */
export function spokenWith(theirs: string | undefined): string | null {
  const [, major, minor] = /^([1-9]\d{0,2})\.(0|[1-9]\d{0,2})$/.exec(theirs ?? FIRST) ?? [];
  const [ours, newest] = NEWEST.split(".");
  if (major !== ours || minor === undefined) return null;
  return `${ours}.${Math.min(Number(minor), Number(newest))}`;
}
