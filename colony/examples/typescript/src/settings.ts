// The environment of the process, checked at the start: what is missing or makes no sense is one sentence.

export interface Key {
  kid: string;
  secret: string;
}

export interface Settings {
  host: string;
  port: number;
  production: boolean;
  keys: Key[];
  origins: Set<string>;
  running: number;
  missionMs: number;
  taskMs: number;
}

export class Misconfigured extends Error {}

export function load(env: Record<string, string | undefined>): Settings {
  const environment = env["ENVIRONMENT"] || "local";
  if (!["local", "staging", "production"].includes(environment)) {
    throw new Misconfigured("ENVIRONMENT must be local, staging or production.");
  }
  return {
    host: env["HOST"] || "127.0.0.1",
    port: whole(env, "PORT", undefined, 1, 65_535),
    production: environment === "production",
    keys: keys(needed(env, "ROOT_API_KEY")),
    origins: new Set(needed(env, "ROOT_API_BASE_URL").split(",").map((url) => origin(url.trim(), "ROOT_API_BASE_URL"))),
    running: whole(env, "MAX_CONCURRENT_MISSIONS", 8, 1, 1_000),
    missionMs: whole(env, "MISSION_TIMEOUT_MS", 300_000, 100, 604_800_000),
    taskMs: whole(env, "TASK_TIMEOUT_MS", 60_000, 100, 604_800_000),
  };
}

export function mayCallBack(settings: Settings, url: string): boolean {
  try {
    const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(url).hostname);
    return settings.origins.has(origin(url, "url")) || (!settings.production && loopback);
  } catch {
    return false;
  }
}

function origin(text: string, name: string): string {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new Misconfigured(`${name} holds ${JSON.stringify(text)}, which is no URL.`);
  }
  if (!/^https?:$/.test(url.protocol) || url.username || url.search || url.hash) {
    throw new Misconfigured(`${name} must be http or https URLs without credentials, query or fragment.`);
  }
  return url.origin;
}

function keys(text: string): Key[] {
  const found = text.split(",").map((entry) => {
    const [, kid, secret] = /^\s*([A-Za-z0-9_-]{1,32}):([!-+\--~]{16,256})\s*$/.exec(entry) ?? [];
    if (kid === undefined || secret === undefined) {
      throw new Misconfigured("ROOT_API_KEY must be kid:secret[,kid:secret], each secret of 16 to 256 visible characters.");
    }
    return { kid, secret };
  });
  if (found.length > 4 || new Set(found.map((key) => key.kid)).size < found.length) {
    throw new Misconfigured("ROOT_API_KEY must name at most 4 keys, each once.");
  }
  return found;
}

function needed(env: Record<string, string | undefined>, name: string): string {
  const value = env[name];
  if (!value) throw new Misconfigured(`${name} is not set, and the colony cannot start without it.`);
  return value;
}

function whole(env: Record<string, string | undefined>, name: string, usual: number | undefined, least: number, most: number): number {
  const text = env[name] || (usual === undefined ? needed(env, name) : String(usual));
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new Misconfigured(`${name} must be a whole number from ${least} to ${most}.`);
  }
  return value;
}
