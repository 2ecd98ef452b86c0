// The colony's HTTP door. Everything under /v1 is signed.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type Dispatch, type DispatchBatch, NEWEST, spokenWith } from "./contract.js";
import { Desk, log } from "./desk.js";
import { BadJson, MAX_BYTES, parse, Shape } from "./json.js";
import type { Settings } from "./settings.js";
import { Checker } from "./signing.js";

const DISPATCH = new Shape("dispatch_batch");
const CANCEL = new Shape("cancel_request");
const MISSION = /^\/v1\/missions\/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(\/cancel)?$/i;

class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly errors: { pointer: string; detail: string }[] = [],
  ) {
    super(detail);
  }
}

interface Answer {
  status: number;
  body: object;
}

export function serve(settings: Settings): Server {
  const desk = new Desk(settings);
  const checker = new Checker(settings.keys);
  return createServer({ requestTimeout: 30_000, headersTimeout: 10_000 }, (request, response) => {
    answer(request, desk, checker)
      .catch(refusal)
      .then((said) => write(response, said))
      .catch((error: unknown) => log("the answer could not be sent", { error: String(error) }));
  });
}

async function answer(request: IncomingMessage, desk: Desk, checker: Checker): Promise<Answer> {
  const [method, url] = [request.method ?? "", request.url ?? ""];
  const path = url.split("?", 1)[0]!;
  if (method === "GET" && path === "/health") {
    return ok({ status: "ok", service: "typescript colony", contract_version: NEWEST });
  }
  if (method === "GET" && path === "/ready") {
    const places = { state: desk.full ? "degraded" : "ok" };
    return { status: desk.full ? 503 : 200, body: { ready: !desk.full, providers: { desk: places }, contract_version: NEWEST } };
  }
  const body = await read(request);
  const why = checker.refusal(method, url, body, request.headers);
  if (why) {
    log("signature refused", { reason: why, path });
    throw new Problem(401, "unauthorized", "the request is not signed with a key that is valid here");
  }
  const theirs = request.headers["colony-contract-version"];
  const version = typeof theirs === "object" ? null : spokenWith(theirs);
  if (version === null) {
    const detail = `the contract is spoken in version ${NEWEST} here, not in ${String(theirs).slice(0, 20)}`;
    throw new Problem(400, "version_unsupported", detail);
  }

  if (method === "POST" && path === "/v1/missions") {
    const { missions } = batch(body);
    return ok({ contract_version: version, missions: missions.map((one) => desk.admit(one, version)) });
  }
  const [, mission, cancel] = MISSION.exec(path) ?? [];
  if (!mission || method !== (cancel ? "POST" : "GET")) throw new Problem(404, "no_such_route", `there is no ${method} ${path}`);
  const id = mission.toLowerCase();
  const known = cancel ? desk.cancel(id, CANCEL.check<{ reason: string }>(parse(body)).reason) : desk.status(id);
  if (!known) throw new Problem(404, "mission_unknown", `mission ${id} is not known here`);
  return ok(known);
}

function batch(body: Uint8Array): DispatchBatch {
  const said = DISPATCH.check<DispatchBatch>(parse(body));
  const seen = new Set<string>();
  const missions = said.missions.map((one, place): Dispatch => {
    const mission_id = one.mission_id.toLowerCase();
    const at = `/missions/${place}/mission_id`;
    if (one.envelope.mission_id.toLowerCase() !== mission_id) throw new BadJson([{ pointer: at, detail: "the envelope is another mission's" }]);
    if (seen.has(mission_id)) throw new BadJson([{ pointer: at, detail: "the mission is named twice" }]);
    seen.add(mission_id);
    return { ...one, mission_id };
  });
  return { missions };
}

async function read(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BYTES) throw new Problem(413, "too_large", `the body is larger than ${MAX_BYTES} bytes`);
    chunks.push(chunk);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

function ok(body: object): Answer {
  return { status: 200, body };
}

function refusal(error: unknown): Answer {
  let problem: Problem;
  if (error instanceof Problem) problem = error;
  else if (error instanceof BadJson) problem = new Problem(422, "invalid_body", error.message, error.problems);
  else {
    log("unforeseen error", { error: error instanceof Error ? error.stack : String(error) });
    problem = new Problem(500, "internal_error", "the colony made a mistake; its log has the details");
  }
  const { status, code, message, errors } = problem;
  const said = { type: `urn:colony:problem:${code}`, title: code.replaceAll("_", " "), status, code, detail: message };
  return { status, body: errors.length ? { ...said, errors } : said };
}

function write(response: ServerResponse, { status, body }: Answer): void {
  const text = new TextEncoder().encode(JSON.stringify(body));
  const isAnswer = status < 400 || "ready" in body;
  const headers: Record<string, string | number> = {
    "Content-Type": isAnswer ? "application/json" : "application/problem+json",
    "Content-Length": text.length,
    "Colony-Contract-Version": NEWEST,
  };
  if (status === 413) headers["Connection"] = "close";
  response.writeHead(status, headers).end(text);
}
